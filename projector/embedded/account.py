"""The user that PostgreSQL runs as: it refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from projector.errors import EmbeddedError


@dataclass(frozen=True, slots=True)
class Account:
    """How to become the user: words to put before a command, and the owner that its files have on disk."""

    prefix: tuple[str, ...]
    uid: int

    def works(self) -> bool:
        try:
            done = subprocess.run([*self.prefix, "true"], capture_output=True, timeout=10, check=False)
        except OSError:
            return False
        return done.returncode == 0

    def own(self, directory: Path) -> None:
        """Hands a directory over to the user, when another kind of account made it."""
        if os.geteuid() == 0 and directory.stat().st_uid != self.uid:
            for folder, folders, files in os.walk(directory):
                for name in (".", *folders, *files):
                    os.chown(Path(folder) / name, self.uid, self.uid, follow_symlinks=False)


def other_uid() -> int:
    """The number of `nobody`, else of any user but root: initdb insists on one that has a name."""
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0}
    if not known:
        raise EmbeddedError("PostgreSQL does not run as root, and this system knows no other user", "Add one.")
    return known.get("nobody", max(known.values()))


def by_namespace() -> Account:
    """A user namespace in which root has another number: files stay root's, so every path stays reachable."""
    uid = other_uid()
    return Account(("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--"), 0)


def by_uid() -> Account:
    """Another uid, for places where namespaces are not allowed, such as most containers.

    It keeps CAP_DAC_OVERRIDE, because its programs and data may lie in a folder that only root may enter. The change of
    uid clears the parent death signal, so it is set again.
    """
    uid = other_uid()
    words = f"--reuid={uid} --regid={uid} --clear-groups"
    words += " --inh-caps=+dac_override --ambient-caps=+dac_override --pdeathsig=KILL"
    return Account(("setpriv", *words.split(), "--"), uid)


def unprivileged() -> Account:
    """This user, or if this is root another one; raises EmbeddedError when there is no way to become one."""
    if os.geteuid() != 0:
        return Account((), os.geteuid())
    for account in (by_namespace(), by_uid()):
        if account.works():
            return account
    raise EmbeddedError(
        "PostgreSQL does not run as root, and neither `unshare --user` nor `setpriv` can start it as another user here",
        "Start as an ordinary user, or give a server by PROJECTOR_DATABASE_URL.",
    )
