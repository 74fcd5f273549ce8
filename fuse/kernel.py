"""Constants and structs of ``include/uapi/linux/fuse.h``, protocol 7.45 (Linux 6.18).

Names are the kernel's, enumerations without their ``FUSE_`` prefix. Every opcode
whose message has a body names the struct of its request (``*_IN``) and of its
answer (``*_OUT``) beside it; the structs follow below. All are in host byte order and
padded by hand, as the kernel pads them.

The header is defined here rather than read from the system because the installed
one is often older than the running kernel.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 45
FUSE_ROOT_ID = 1

FUSE_MIN_READ_BUFFER = 8192
"""read(2) of /dev/fuse with a smaller buffer fails with EINVAL."""
FUSE_UNIQUE_RESEND = 1 << 63
"""Set in ``unique`` of a request sent again after FUSE_NOTIFY_RESEND; answers must carry it."""


class Opcode(IntEnum):
    """``enum fuse_opcode``: what the kernel asks, and the structs of question and answer."""

    LOOKUP = 1  # name\0 -> ENTRY_OUT
    FORGET = 2  # FORGET_IN, never answered
    GETATTR = 3  # GETATTR_IN -> ATTR_OUT
    SETATTR = 4
    READLINK = 5  # -> target
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14  # OPEN_IN -> OPEN_OUT
    READ = 15  # READ_IN -> bytes
    WRITE = 16
    STATFS = 17  # -> STATFS_OUT
    RELEASE = 18  # RELEASE_IN
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22  # GETXATTR_IN name\0 -> GETXATTR_OUT or the value
    LISTXATTR = 23  # GETXATTR_IN -> GETXATTR_OUT or names, each ended by \0
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26  # INIT_IN [INIT_IN_EXT] -> INIT_OUT
    OPENDIR = 27  # OPEN_IN -> OPEN_OUT
    READDIR = 28  # READ_IN -> DIRENT name, repeated
    RELEASEDIR = 29  # RELEASE_IN
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36  # INTERRUPT_IN, answered only to have it sent again
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42  # BATCH_FORGET_IN, then FORGET_ONE for each; never answered
    FALLOCATE = 43
    READDIRPLUS = 44  # READ_IN -> ENTRY_OUT DIRENT name, repeated
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


NEVER_ANSWERED = frozenset(
    {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}
)


class NotifyCode(IntEnum):
    """``enum fuse_notify_code``: goes where an answer has its error, with ``unique`` 0."""

    INVAL_INODE = 2  # NOTIFY_INVAL_INODE_OUT
    INVAL_ENTRY = 3  # NOTIFY_INVAL_ENTRY_OUT name\0
    RESEND = 7


class InitFlag(IntFlag):
    """INIT flags. Bits 32 and up travel in ``flags2``, valid with INIT_EXT."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


# Flags of OPEN's and OPENDIR's answer.
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_CACHE_DIR = 1 << 3
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
FOPEN_PASSTHROUGH = 1 << 7
FOPEN_PASSTHROUGH_MASK = (
    FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH
)
"""fs/fuse/iomode.c: with any other flag beside FOPEN_PASSTHROUGH the open fails with EIO."""

IN_HEADER = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
OUT_HEADER = Struct("=IiQ")
"""len (with this header), error (0 or a negative errno), unique"""

ATTR = Struct("=QQQQQQIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev,
blksize, flags"""
ENTRY_OUT = Struct("=QQQQII")
"""nodeid, generation, entry_valid, attr_valid, their nanoseconds; ATTR follows"""
ATTR_OUT = Struct("=QII")
"""attr_valid, its nanoseconds, dummy; ATTR follows"""
FORGET_IN = Struct("=Q")
"""nlookup"""
BATCH_FORGET_IN = Struct("=II")
"""count, dummy"""
FORGET_ONE = Struct("=QQ")
"""nodeid, nlookup"""
GETATTR_IN = Struct("=IIQ")
"""getattr_flags, dummy, fh"""
OPEN_IN = Struct("=II")
"""flags (of open(2)), open_flags"""
OPEN_OUT = Struct("=QIi")
"""fh, open_flags (FOPEN_*), backing_id"""
READ_IN = Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding; also of READDIR and READDIRPLUS"""
RELEASE_IN = Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner"""
STATFS_OUT = Struct("=QQQQQIIII24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding"""
GETXATTR_IN = Struct("=II")
"""size of the caller's buffer (0 asks for the length), padding"""
GETXATTR_OUT = Struct("=II")
"""size, padding"""
DIRENT = Struct("=QQII")
"""ino, off (cookie of the next entry), namelen, type (DT_*); the name follows, padded to 8"""
INTERRUPT_IN = Struct("=Q")
"""unique of the request that was interrupted"""

INIT_IN = Struct("=IIII")
"""major, minor, max_readahead, flags"""
INIT_IN_EXT = Struct("=I44x")
"""flags2: follows INIT_IN since 7.36"""
INIT_OUT = Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
time_gran, max_pages, map_alignment, flags2, max_stack_depth, request_timeout"""
FUSE_COMPAT_22_INIT_OUT_SIZE = 24
"""Before 7.23 the answer to INIT ended after max_write."""

NOTIFY_INVAL_INODE_OUT = Struct("=Qqq")
"""nodeid, off (negative: attributes only), len (0 or less: to the end)"""
NOTIFY_INVAL_ENTRY_OUT = Struct("=QII")
"""parent, namelen, flags"""

BACKING_MAP = Struct("=iIQ")
"""fd, flags, padding (both 0)"""
BACKING_ID = Struct("=I")

# _IOW(229, nr, size) of asm-generic/ioctl.h, which x86, arm64, riscv and s390 share.
FUSE_DEV_IOC_BACKING_OPEN = 1 << 30 | BACKING_MAP.size << 16 | 229 << 8 | 1
FUSE_DEV_IOC_BACKING_CLOSE = 1 << 30 | BACKING_ID.size << 16 | 229 << 8 | 2
