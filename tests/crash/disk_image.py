"""What may lie on a disk after a power cut, from a trace of crash_shim.c.

Of a file: what was written before its last sync that returned; of what was
written since, any page of 4 KiB (or sector of 512 bytes) in any of the states it
went through, as a disk that reorders and tears may leave it. Of names (create, rename, unlink, mkdir):
those before the last sync of their directory; of the others a first part, as a
file system with a journal may leave them.

A sync that failed is as Linux has it: the pages that it was for may be dropped,
and count as clean from then on, so a later sync that succeeds does not bring
them back.
"""
import os
import random
import shutil
import struct

HEAD = struct.Struct("<IIQII")
(OPEN, CREATE, WRITE, TRUNCATE, SYNC, SYNC_DIR, RENAME, UNLINK,
 MKDIR, LOST, FAULT) = range(1, 12)
PAGE, SECTOR = 4096, 512


def read_trace(path):
    """Yields (op, id, offset, path, bytes); a cut last entry ends it."""
    with open(path, "rb") as trace:
        data = trace.read()
    at = 0
    while at + HEAD.size <= len(data):
        op, file_id, offset, n_path, n_bytes = HEAD.unpack_from(data, at)
        at += HEAD.size
        end = at + n_path + n_bytes
        if end > len(data):
            return
        name = data[at:at + n_path].decode()
        yield op, file_id, offset, name, data[at + n_path:end]
        at = end


class File:
    """A file's synced bytes, and what was done to it since."""

    def __init__(self, content=b""):
        self.synced = bytearray(content)
        self.since = []  # (offset, bytes), or (length, None)

    @staticmethod
    def apply(content, change):
        offset, data = change
        if data is None:
            if offset < len(content):
                del content[offset:]
            else:
                content.extend(bytes(offset - len(content)))
            return
        if len(content) < offset + len(data):
            content.extend(bytes(offset + len(data) - len(content)))
        content[offset:offset + len(data)] = data

    def sync(self):
        for change in self.since:
            self.apply(self.synced, change)
        self.since = []

    def lose(self):
        """What was written since the last sync is gone, its length is not."""
        self.since = [(offset + len(data), None)
                      for offset, data in self.since
                      if data is not None and
                      offset + len(data) > len(self.synced)][-1:]

    def after_cut(self, rng):
        """One of the contents that a power cut may leave."""
        if not self.since:
            return bytes(self.synced)
        mood = rng.random()
        if mood < 0.15:  # nothing of it reached the disk
            return bytes(self.synced)
        states = [bytearray(self.synced)]
        for change in self.since:
            states.append(bytearray(states[-1]))
            self.apply(states[-1], change)
        if mood < 0.3:  # all of it, up to some change
            return bytes(rng.choice(states))
        # A length that the file had, and each page as it was at some time, or
        # even each sector.
        unit = SECTOR if rng.random() < 0.3 else PAGE
        content = bytearray(len(rng.choice(states)))
        for begin in range(0, len(content), unit):
            end = min(begin + unit, len(content))
            versions = []
            for state in states:
                page = bytes(state[begin:end]).ljust(end - begin, b"\0")
                if page not in versions:
                    versions.append(page)
            content[begin:end] = rng.choice(versions)
        return bytes(content)


class Disk:
    """The watched directory, as a trace leaves it."""

    def __init__(self, root, before):
        """`before` is a copy of the directory from before the trace."""
        self.root = root
        self.names = {}  # path: File, or None for a directory
        self.since = []  # changes of names not synced yet
        self.ids = {}
        for folder, _, files in os.walk(before):
            place = os.path.join(root, os.path.relpath(folder, before))
            self.names[os.path.normpath(place)] = None
            for name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    self.names[os.path.normpath(
                        os.path.join(place, name))] = File(file.read())

    def apply_name(self, names, change):
        op, path, other = change
        if op == CREATE:
            names[path] = other
        elif op == MKDIR:
            names[path] = None
        elif op == UNLINK:
            names.pop(path, None)
        elif op == RENAME:
            for name in [n for n in names
                         if n == path or n.startswith(path + "/")]:
                names[other + name[len(path):]] = names.pop(name)

    def now(self):
        names = dict(self.names)
        for change in self.since:
            self.apply_name(names, change)
        return names

    def sync_dir(self, path):
        """Makes its names last, and those made before them: one journal."""
        last = -1
        for i, (_, name, other) in enumerate(self.since):
            to = other if isinstance(other, str) else name
            if path in (os.path.dirname(name), os.path.dirname(to)):
                last = i
        for change in self.since[:last + 1]:
            self.apply_name(self.names, change)
        self.since = self.since[last + 1:]

    def replay(self, trace):
        for op, file_id, offset, path, data in trace:
            if op == FAULT:
                continue
            if op == OPEN:
                self.ids[file_id] = self.now()[path]
            elif op == CREATE:
                self.ids[file_id] = File()
                self.since.append((CREATE, path, self.ids[file_id]))
            elif op == WRITE:
                self.ids[file_id].since.append((offset, data))
            elif op == TRUNCATE:
                self.ids[file_id].since.append((offset, None))
            elif op == SYNC:
                self.ids[file_id].sync()
            elif op == LOST:
                if file_id in self.ids:
                    self.ids[file_id].lose()
            elif op == SYNC_DIR:
                self.sync_dir(path)
            elif op == RENAME:
                self.since.append((RENAME, *path.split("\n")))
            else:
                self.since.append((op, path, None))
        return self

    def after_cut(self, seed, to):
        """Writes one of the possible directories to `to`."""
        rng = random.Random(seed)
        names = dict(self.names)
        for change in self.since[:rng.randint(0, len(self.since))]:
            self.apply_name(names, change)
        shutil.rmtree(to, ignore_errors=True)
        os.makedirs(to)
        for path, file in sorted(names.items()):
            place = os.path.join(to, os.path.relpath(path, self.root))
            if file is None:
                os.makedirs(place, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as out:
                out.write(file.after_cut(rng))
