"""/shared: the directory of one group, in which agents of different users work side by side. It is nobody's own."""

from __future__ import annotations

import errno
import os
import struct

GROUP = 61000
"""Above what groupadd gives out (60000), among those that systemd leaves unused (60578 to 61183), and below 65536, so
that a user namespace of the usual size has it. So no group of the host's gets in by accident. The same number stands in
compose.yaml and docker/build/make-user."""

MODE = 0o2775
"""What is made in it belongs to the group (setgid); who is not in the group may read."""

DEFAULT_ACL, ACCESS_ACL = "system.posix_acl_default", "system.posix_acl_access"
USER, OWNING_GROUP, OTHER = 0x01, 0x04, 0x20
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in ((USER, 7), (OWNING_GROUP, 7), (OTHER, 5))
)
"""For what is made in it, in place of the maker's umask: rwx for its owner and the group, r-x for others. The form is
the kernel's own: version 2, then tag, rights and id of each entry."""

WITHOUT_ACL = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def share_out(fd: int) -> bool:
    """Let the group use what will be made in an open directory of ours; false where the file system has no ACL."""
    try:
        if _default_acl(fd) != ACL:
            os.setxattr(fd, DEFAULT_ACL, ACL)
    except OSError as error:
        if error.errno not in WITHOUT_ACL:
            raise
        return False
    return True


def is_right(fd: int) -> bool:
    """Say whether an open directory is the group's already, so that nothing need be done."""
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
    """Make an open directory the group's, as root; false where the file system has no ACL.

    The mode is set while the group is root's own: elsewhere the kernel would take setgid away from who has no FSETID.
    """
    os.fchown(fd, 0, 0)
    try:
        os.removexattr(fd, ACCESS_ACL)  # by which an earlier owner may have kept others out
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
