"""A learning-analytics platform: LMS extracts in, anonymized clusters and explainable risk out."""
