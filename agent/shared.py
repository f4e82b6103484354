"""/shared: a directory that belongs to a group, so that agents of different users can work in it side by side."""

from __future__ import annotations

import errno
import os
import struct

GROUP = 61000
"""The group of all agents, with a number that no group of the host has by accident.

It is above what groupadd assigns (60000), in a range that systemd leaves unused (60578 to 61183), and below 65536, so
that a user namespace of the usual size has it. compose.yaml and docker/build/make-user hold the same number.
"""

MODE = 0o2775
"""New files and directories get the group of the directory (setgid). Users outside of the group may read."""

DEFAULT_ACL, ACCESS_ACL = "system.posix_acl_default", "system.posix_acl_access"
USER, OWNING_GROUP, OTHER = 0x01, 0x04, 0x20
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in ((USER, 7), (OWNING_GROUP, 7), (OTHER, 5))
)
"""The default ACL, in place of the creator's umask: rwx for the owner and the group, r-x for others.

The format is the kernel's: version 2, then tag, rights and id of each entry.
"""

WITHOUT_ACL = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def share_out(fd: int) -> bool:
    """Give the group access to all that is made later in an open directory of ours. Returns false without ACLs."""
    try:
        if _default_acl(fd) != ACL:
            os.setxattr(fd, DEFAULT_ACL, ACL)
    except OSError as error:
        if error.errno not in WITHOUT_ACL:
            raise
        return False
    return True


def is_right(fd: int) -> bool:
    """Say whether an open directory belongs to the group already, so that nothing has to be done."""
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (0, GROUP, MODE):
        return False
    try:
        return _default_acl(fd) == ACL and ACCESS_ACL not in os.listxattr(fd)
    except OSError as error:
        if error.errno not in WITHOUT_ACL:
            raise
        return False


def give_to_group(fd: int) -> bool:
    """Give an open directory to the group, as root. Returns false where the file system has no ACLs.

    The mode is set while the group is still root's: with another group, the kernel would remove setgid unless the
    process has CAP_FSETID.
    """
    os.fchown(fd, 0, 0)
    try:
        os.removexattr(fd, ACCESS_ACL)  # with this list an earlier owner may have kept others out
    except OSError as error:
        if error.errno not in WITHOUT_ACL | {errno.ENODATA}:
            raise
    os.fchmod(fd, MODE)
    os.fchown(fd, -1, GROUP)
    return share_out(fd)


def _default_acl(fd: int) -> bytes:
    try:
        return os.getxattr(fd, DEFAULT_ACL)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return b""
