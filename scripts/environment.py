"""Makes or refreshes ``.venv`` in the checkout; standard library only, since nothing is installed yet.

Everything comes from requirements.lock with its hashes checked; the project itself is installed as it
stands, without network. A stamp in the environment says what it was made of and where: as long as it
matches nothing is done, so a second call needs no network and takes no time. A copied or moved
environment does not match (its programs name the old place) and is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
STAMP = VENV / "fiona-stamp"
LOCK = CHECKOUT / "requirements.lock"
DECISIVE = (LOCK, CHECKOUT / "pyproject.toml", Path(__file__).resolve())


def main() -> int:
    """Returns the exit code."""
    with (CHECKOUT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` in one checkout: the second finds all done
        wanted = _stamp()
        if _read(STAMP) == wanted and (VENV / "bin" / "fiona").exists() and _works():
            return 0
        try:
            _make()
        except subprocess.CalledProcessError as error:
            return _complain(f"environment: {' '.join(map(str, error.cmd[:6]))} ... failed; see above")
        except MissingVenvError as error:
            return _complain(str(error))
        STAMP.write_text(wanted, encoding="utf-8")
        print(f"environment ready: {VENV}")
        return 0


class MissingVenvError(Exception):
    """This Python can't make environments and we may not install what it lacks."""


def _complain(message: str) -> int:
    print(f"fiona: {message}", file=sys.stderr)
    return 1


def _stamp() -> str:
    digest = hashlib.sha256()
    for path in DECISIVE:
        digest.update(path.read_bytes())
    return f"{VENV}\n{digest.hexdigest()}\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _works() -> bool:
    """Whether the environment's Python starts and is new enough (its base may have been removed)."""
    python = VENV / "bin" / "python"
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    return python.exists() and subprocess.run([python, "-I", "-c", code], check=False).returncode == 0


def _make() -> None:
    uv = shutil.which("uv")
    old = _read(STAMP)
    STAMP.unlink(missing_ok=True)
    if VENV.exists() and (not _works() or (old and old.splitlines()[0] != str(VENV))):
        shutil.rmtree(VENV)
    if uv and not _with_uv(uv):
        _complain("environment: uv did not succeed, going on with pip")
        uv = None
    if not uv:
        _with_pip()
    _compile()


def _compile() -> None:
    """Makes bytecode once, for all: uv makes none, and where PYTHONDONTWRITEBYTECODE is set nobody else does.

    Without it each process compiles Dagster and pydicom anew: seconds of processor time, tens of megabytes.
    """
    python = VENV / "bin" / "python"
    folders = [
        *VENV.glob("lib*/python*/site-packages"),
        *(CHECKOUT / n for n in ("fiona_dagster", "receiver")),
    ]
    # What can't be compiled (templates, code for other versions) is nobody's loss.
    subprocess.run([python, "-m", "compileall", "-q", "-q", "-j", "0", *folders], check=False, cwd=CHECKOUT)


def _with_uv(uv: str) -> bool:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    python = VENV / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    steps = [
        [*install, "--no-deps", "--require-hashes", "-r", str(LOCK)],
        [*install, "--no-deps", "--no-build-isolation", "-e", str(CHECKOUT)],
    ]
    if not VENV.exists():
        steps.insert(0, [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(VENV)])
    # uv does not read pip's configuration (an index of the site's own): then pip has its turn.
    return all(subprocess.run(s, check=False, env=environment, cwd=CHECKOUT).returncode == 0 for s in steps)


def _with_pip() -> None:
    if not VENV.exists():
        _need_ensurepip()
        _run(sys.executable, "-m", "venv", VENV)
    python = VENV / "bin" / "python"
    if subprocess.run([python, "-m", "pip", "--version"], check=False, capture_output=True).returncode != 0:
        _need_ensurepip()
        _run(python, "-m", "ensurepip", "--default-pip")
    # The lock is complete, so there is nothing to resolve: --no-deps everywhere.
    pip = (python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps")
    _run(*pip, "--require-hashes", "-r", LOCK)
    _run(*pip, "--no-build-isolation", "-e", CHECKOUT)


def _need_ensurepip() -> None:
    """Debian ships Python without ensurepip: installs it as root, otherwise says what to install."""
    if _has_ensurepip():
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    package = f"python{version}-venv"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingVenvError(f"Python {version} comes without ensurepip; install {package}, then try again")
    apt = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "--no-install-recommends", package)):
        subprocess.run([*apt, *command], check=True, env=environment, stdout=sys.stderr)
    if not _has_ensurepip():
        raise MissingVenvError(
            f"{sys.executable} lacks ensurepip even with {package}; name another one: make env PYTHON=..."
        )


def _has_ensurepip() -> bool:
    probe = [sys.executable, "-I", "-c", "import ensurepip, venv"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=CHECKOUT)


if __name__ == "__main__":
    sys.exit(main())
