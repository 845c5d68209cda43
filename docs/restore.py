#!/usr/bin/env python3
"""Restores a point of a blkdelta repository, written from docs/FORMAT.md alone: the escape hatch.

    python3 restore.py REPOSITORY                     lists the points
    python3 restore.py REPOSITORY POINT TARGET        writes a point (its id, or `latest`) to a new file or a device

Needs Python 3.8 or later and, for what is compressed, the module `zstandard` or the program `zstd`. With the modules `blake3` and `xxhash` every byte is verified; without, it is said.
Works on a local copy of a repository that is not encrypted. It writes layer by layer from the full upward.
"""
import glob, importlib, json, os, stat, struct, subprocess, sys

def module(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None

zstandard, blake3, xxhash = map(module, ("zstandard", "blake3", "xxhash"))
VERSION, BLOCK, BATCH = 1, 4096, 256

def fail(text):
    sys.exit("restore.py: " + text)

def unzstd(frames):
    """The content of zstd frames, back to back: the program reads what is concatenated."""
    if zstandard:
        return b"".join(zstandard.ZstdDecompressor().decompressobj().decompress(f) for f in frames)
    try:
        return subprocess.run(["zstd", "-dcq"], input=b"".join(frames), stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError:
        fail("neither the Python module zstandard nor the program zstd is there: install one of them")

def verify(what, agrees):
    if not agrees:
        fail("%s: damaged" % what)

def expect(what, magic, wanted, version, crypto, incompatible):
    verify(what, magic == wanted)
    if version > VERSION or incompatible:
        fail("%s: version %d, features %#x: this program knows version %d" % (what, version, incompatible, VERSION))
    if crypto:
        fail("%s: encrypted; this program reads only what is not: use `blkdelta restore`" % what)

def envelope(path, magic):
    """The body of a JSON object (FORMAT.md, "JSON objects")."""
    with open(path, "rb") as file:
        data = file.read()
    whole = json.loads(data)
    expect(path, whole["magic"], magic, whole["version"], whole["crypto"], whole["incompatible"])
    verify(path, not blake3 or blake3.blake3(data[:10] + b"0" * 64 + data[74:]).hexdigest() == whole["check"])
    return whole["body"]

def column(data, at, count, of):
    """So many varints from `at` on, and where the next column begins."""
    values = []
    for _ in range(count):
        value = shift = 0
        while data[at] > 127:
            value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        values.append(of(value | data[at] << shift))
        at += 1
    return values, at

signed = lambda v: (v >> 1) ^ -(v & 1)
unit = lambda v: v >> 1 if v & 1 else (v >> 1) * BLOCK
signed_unit = lambda v: signed(v >> 1) if v & 1 else signed(v >> 1) * BLOCK

def decode_chunk(data, count):
    """Pieces as (offset, length, None) for zeros or (offset, length, (segment, at, stored, kind, skip, whole, hash))."""
    kinds, at = data[:count], count
    gaps, at = column(data, at, count, signed_unit)
    lengths, at = column(data, at, count, unit)
    n = count - kinds.count(0)
    skips, at = column(data, at, n, unit)
    tails, at = column(data, at, n, unit)
    segments, at = column(data, at, n, signed)
    offsets, at = column(data, at, n, signed)
    stored, at = column(data, at, n, lambda v: v)
    pieces, end, segment, last, s = [], 0, 0, 0, 0
    for kind, gap, length in zip(kinds, gaps, lengths):
        offset, end, frame = end + gap, end + gap + length, None
        if kind:
            segment, place = segment + segments[s], last + offsets[s]
            last, whole = place + stored[s], skips[s] + length + tails[s]
            digest = data[at + 16 * s:at + 16 * s + 16]
            frame, s = (segment, place, stored[s], kind, skips[s], whole, digest), s + 1
        pieces.append((offset, length, frame))
    return pieces

def read_index(path):
    """Yields (segment names, pieces) chunk by chunk (FORMAT.md, "Index")."""
    with open(path, "rb") as file:
        header = file.read(64)
        magic, version, crypto, _, incompatible = struct.unpack("<8sHBBI", header[:16])
        expect(path, magic, b"blkdIDX\n", version, crypto, incompatible)
        file.seek(-56, os.SEEK_END)
        trailer = file.read(56)
        at, length, _ = struct.unpack("<QQQ", trailer[:24])
        file.seek(at)
        footer = file.read(length)
        verify(path, trailer[48:] == b"blkdIDXe" and same(footer, trailer[24:40]))
        segments, chunks = struct.unpack("<QQ", footer[:16])
        names = [ulid(footer[16 + 56 * n:32 + 56 * n]) for n in range(segments)]
        for n in range(chunks):
            entry = footer[16 + 56 * (segments + n):][:56]
            _, _, at, length, count, _ = struct.unpack("<QQQIIQ", entry[:40])
            file.seek(at)
            chunk = file.read(length)
            verify(path, same(chunk, entry[40:]))
            yield names, decode_chunk(unzstd([chunk]), count)

def same(data, digest):
    return not xxhash or xxhash.xxh3_128_digest(data) == digest

def ulid(raw):
    value = int.from_bytes(raw, "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[value >> 5 * n & 31] for n in reversed(range(26))), raw[15]

def write_pieces(repository, names, pieces, out):
    stored = sorted((p for p in pieces if p[2]), key=lambda p: (p[2][0], p[2][1]))
    for offset, length, _ in (p for p in pieces if not p[2]):
        out.seek(offset)
        for at in range(0, length, 1 << 20):
            out.write(bytes(min(1 << 20, length - at)))
    for first in range(0, len(stored), BATCH):
        batch = stored[first:first + BATCH]
        frames = {}
        for _, _, (segment, at, size, kind, _, whole, digest) in batch:
            if (segment, at) not in frames:
                name, folder = names[segment]
                with open(os.path.join(repository, "seg", "%02x" % folder, name), "rb") as file:
                    file.seek(at)
                    frames[segment, at] = [kind, whole, digest, file.read(size)]
        packed = [f for f in frames.values() if f[0] == 2]
        content, at = unzstd([f[3] for f in packed]) if packed else b"", 0
        for frame in packed:
            frame[3], at = content[at:at + frame[1]], at + frame[1]
        for (segment, at), (_, whole, digest, raw) in frames.items():
            verify("segment %s at byte %d" % (names[segment][0], at), len(raw) == whole and same(raw, digest))
        for offset, length, (segment, at, _, _, skip, _, _) in batch:
            out.seek(offset)
            out.write(frames[segment, at][3][skip:skip + length])

def layers(repository, point):
    """The indexes from the asked point down to its full or to a point with a map (FORMAT.md, "Maps")."""
    while True:
        device, name = point["device"]["id"], point["point"]
        base = os.path.join(repository, "map", device, name)
        commits = [int(os.path.basename(c)[:-5]) for c in glob.glob(os.path.join(glob.escape(base), "*.json"))]
        if commits:
            envelope(os.path.join(base, "%d.json" % max(commits)), "blkdelta map")
            return (yield os.path.join(base, str(max(commits))))
        yield os.path.join(repository, "idx", device, name)
        if not point["parent"]:
            return
        point = envelope(os.path.join(repository, "bak", device, point["parent"]["point"] + ".json"), "blkdelta point")

def main(words):
    if len(words) not in (1, 3):
        fail("usage: restore.py REPOSITORY [POINT|latest TARGET]")
    repository = words[0]
    envelope(os.path.join(repository, "repo.json"), "blkdelta repository")
    found = glob.glob(os.path.join(glob.escape(repository), "bak", "*", "*.json"))
    dropped = lambda path: os.path.exists(os.path.join(repository, "del", *path.split(os.sep)[-2:]))
    points = sorted((envelope(p, "blkdelta point") for p in found if not dropped(p)), key=lambda p: (p.get("order", p["time_cut"]), p["point"]))
    if len(words) == 1:
        return [print(p["point"], p["device"]["id"], p["kind"], p["geometry"]["size"], p["time_cut"]) for p in points]
    chosen = points[-1:] if words[1] == "latest" else [p for p in points if p["point"] == words[1]]
    if not chosen or words[1] == "latest" and len({p["device"]["id"] for p in points}) > 1:
        fail("no such point, or `latest` could be of several devices; without further words all are listed")
    if not (blake3 and xxhash):
        print("restore.py: not everything is verified: the module blake3 or xxhash is missing", file=sys.stderr)
    size, target = chosen[0]["geometry"]["size"], words[2]
    device = os.path.exists(target) and stat.S_ISBLK(os.stat(target).st_mode)
    with open(target, "r+b" if device else "xb") as out:
        indexes = list(layers(repository, chosen[0]))
        if device:  # a file begins as zeros, a device may hold anything
            write_pieces(repository, [], [(0, size, None)], out)
        else:
            out.truncate(size)
        for index in reversed(indexes):
            for names, pieces in read_index(index):
                write_pieces(repository, names, pieces, out)
        out.flush()
        os.fsync(out.fileno())

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        fail(str(error))
    except Exception as error:  # numbers of damaged bytes that lead nowhere
        fail("damaged: %r" % error)
