import io
import tarfile


def made(*members):
    text = io.BytesIO()
    with tarfile.open("a.tar", "w") as tar:
        for name, size, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = size, kind
            info.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(info, io.BytesIO(b"x" * size))
    return text


def extract(path, target):
    <<CELL>>


made(("a", 5, tarfile.REGTYPE))
extract("a.tar", "out")
assert open("out/a").read() == "xxxxx"
for members, wanted in (
    ([("../x", 5, tarfile.REGTYPE)], tarfile.OutsideDestinationError),
    ([("l", 0, tarfile.SYMTYPE)], ValueError),
    ([(f"n{number}", 0, tarfile.REGTYPE) for number in range(1001)], ValueError),
):
    made(*members)
    try:
        extract("a.tar", "out")
    except wanted:
        continue
    raise AssertionError(members[0])
print("shows paths out of the folder, links and too many entries are refused")
