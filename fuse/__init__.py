"""The Linux FUSE protocol, spoken from Python straight over ``/dev/fuse``.

This package knows files and bytes: it mounts, decodes what the kernel asks, and
sends what the file system answers. It knows nothing of models, registries or
containers, depends on the standard library alone, and imports nothing from the
rest of this project.

Two floors, of which the lower never knows the upper:

* the wire: :mod:`fuse.kernel` (constants and structs of ``linux/fuse.h``),
  :mod:`fuse.encode` (answers as bytes), :mod:`fuse.negotiate` (INIT), :mod:`fuse.reading`
  (a READ, answered now or later), :mod:`fuse.interrupts` (readers that get a signal),
  :mod:`fuse.dispatch` (one request in, one answer out), :mod:`fuse.device` and
  :mod:`fuse.session` (the descriptor and the threads that read it);
* the file system: :mod:`fuse.operations` (what a file system has to answer) and
  :mod:`fuse.tree` (a ready-made immutable tree that leaves only reading to you).

Beside them :mod:`fuse.mount`, with :mod:`fuse.fusermount` for users without privilege, and
:mod:`fuse.mountinfo`.

A complete file system::

    import os
    from fuse.mount import mount, set_readahead, unmount
    from fuse.reading import ReadRequest
    from fuse.session import Session
    from fuse.tree import File, Tree

    def read(request: ReadRequest, file: File[bytes]) -> None:
        request.reply(file.content[request.offset :][: request.size])

    fd = mount("/mnt/hello", fsname="hello")
    session = Session(fd, Tree({b"hello.txt": File(b"hello\\n", size=6)}, read))
    session.start()
    set_readahead("/mnt/hello", 4096)
    session.ended.wait()  # until somebody runs umount /mnt/hello
    os.close(fd)

A file system served here is read-only and immutable: the kernel may keep names,
attributes and pages for as long as it likes, and every attempt to write is
answered EROFS. Reads may be answered later and from any thread, so a thread that
reads the device never has to wait for anything.
"""
