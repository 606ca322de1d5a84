"""Where the dbt project lies, and its command line on a warehouse file.

What a model means belongs to the SQL in `dbt_project/`; who may write the file meanwhile, to the caller.
"""

import subprocess
import sys
from pathlib import Path

from iom_platform.settings import PROJECT_ROOT, environment_without_secrets

DBT_PROJECT_DIR = PROJECT_ROOT / "dbt_project"
DBT_EXECUTABLE = Path(sys.executable).with_name("dbt")


def run_dbt(command: str, *arguments: str, folder: Path, **variables: str) -> None:
    """dbt in a process of its own that sees no secret; manifest, artifacts and log go to `folder`.

    variables: of its environment, as `profiles.yml` and the models read them. Raises RuntimeError with the end of
    what dbt said.
    """
    done = subprocess.run(
        [str(DBT_EXECUTABLE), "--quiet", command, *arguments, "--project-dir", str(DBT_PROJECT_DIR), "--profiles-dir", str(DBT_PROJECT_DIR),
         "--target-path", str(folder), "--log-path", str(folder)],
        capture_output=True, text=True, check=False, env=environment_without_secrets(**variables),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"dbt could not {command} dbt_project: {done.stdout.strip()[-2000:]}")
