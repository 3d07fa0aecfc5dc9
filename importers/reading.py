"""Reads weight files safely: PyTorch's (zip and legacy) and safetensors.

A PyTorch file is a pickle with raw storages beside it. It is scanned first, without running or allocating anything:
which names the pickle has, and how large its storages say they are. Only then `torch.load(weights_only=True)` reads it.
"""

import io
import mmap
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from importers.pickles import Inert, inert_class, unpickle
from importers.problems import ImportProblem

ITEM_BYTES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip

# What PyTorch itself makes of a state dictionary. Its own list is longer: some names there allocate memory.
PLAIN = {
    *ITEM_BYTES,
    *(f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
    "_codecs.encode",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
}

# What training code leaves beside the weights. It becomes inert records.
LEFTOVERS = (
    "argparse.", "builtins.bool", "builtins.dict", "builtins.float", "builtins.int", "builtins.list", "builtins.object",
    "builtins.str", "builtins.tuple", "lightning.", "lightning_fabric.", "ml_collections.", "numpy.", "omegaconf.",
    "pathlib.", "pytorch_lightning.", "types.SimpleNamespace", "typing.",
)  # fmt: skip

# torch.save before version 1.6 begins with this number, pickled.
LEGACY_HEAD = b"\x80\x02\x8a\n" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
LEGACY_BLOCK = 8  # bytes before each storage of a legacy file: its number of elements


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: tensors on the CPU in the file's dtypes; other objects as `Inert` records.

    A zip file is mapped, not copied, so its tensors change with the file. Raises ImportProblem.
    """
    with open_file(path) as file:
        zipped = zipfile.is_zipfile(path)
        names = scan_zip(path) if zipped else scan_legacy(file, path.name)
    return load_weights(path, path.name, names, mapped=zipped)


def read_torch_bytes(data: bytes, source: str) -> Any:
    """The same of bytes: torch's storages inside another pickle."""
    file = io.BytesIO(data)
    return load_weights(io.BytesIO(data), source, scan_legacy(file, source), mapped=False)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU. Raises ImportProblem."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ImportProblem(f"{path.name}: not a whole safetensors file ({error})") from error


def open_file(path: Path) -> IO[bytes]:
    """The file's bytes, mapped: reading past its end gives fewer bytes and allocates nothing."""
    try:
        if path.exists() and not path.is_file():  # a FIFO would keep it waiting for ever
            raise ImportProblem(f"{path.name}: it is no regular file")
        with path.open("rb") as file:
            return cast(IO[bytes], mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise ImportProblem(f"{path.name}: cannot be read ({error})") from error


def load_weights(file: Path | IO[bytes], source: str, names: set[str], *, mapped: bool) -> Any:
    """By `torch.load(weights_only=True)`, with an inert class for each of the `names` that is not PyTorch's own."""
    stand_ins: list[Any] = [(inert_class(name), name) for name in names - PLAIN if name != "collections.defaultdict"]
    stand_ins.append((plain_dict, "collections.defaultdict"))
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises its own, the pickle module's, KeyError, RuntimeError, ...
        reason = str(error).split("\n")[0]
        raise ImportProblem(f"{source}: not a whole PyTorch file ({type(error).__name__}: {reason})") from error


def plain_dict(*_: Any) -> dict[Any, Any]:
    """A dictionary, for a `collections.defaultdict` whose default does not matter here."""
    return {}


class Scan:
    """The names that a pickle has and the storages that it refers to, gathered as it is unpickled into inert records.

    `names`: of classes and functions. `storages`: key → bytes.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.names: set[str] = set()
        self.storages: dict[str, int] = {}

    def load(self, file: IO[bytes]) -> Any:
        """Scans the pickle at the file's position."""
        return unpickle(file, self.source, self.resolve, self.storage)

    def resolve(self, path: str) -> type[Inert] | None:
        """An inert class for a name that a checkpoint may have."""
        if path not in PLAIN and path != "collections.defaultdict" and not path.startswith(LEFTOVERS):
            return None
        self.names.add(path)
        return inert_class(path)

    def storage(self, pid: Any) -> Inert:
        """Notes a storage: ("storage", its class, key, location, number of elements, ...)."""
        match pid:
            case ("storage", type() as kind, key, _, int(count), *_) if issubclass(kind, Inert) and count >= 0:
                if kind.path not in ITEM_BYTES:
                    raise ImportProblem(f"{self.source}: it has a {kind.path}, whose dtype no network here has")
                self.storages[str(key)] = count * ITEM_BYTES[kind.path]
                return Inert()
        raise ImportProblem(f"{self.source}: its pickle refers to something that is no storage")


def scan_zip(path: Path) -> set[str]:
    """The names in a zip file's pickle. Raises ImportProblem if sizes do not agree: nothing was allocated by then."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            check_entries(path, entries)
            sizes = {entry.filename: entry.file_size for entry in entries}
            pickled = [name for name in sizes if name.endswith("/data.pkl") or name == "data.pkl"]
            if len(pickled) != 1:
                raise ImportProblem(f"{path.name}: a zip file, but not PyTorch's: it has no data.pkl")
            scan = Scan(path.name)
            scan.load(io.BytesIO(archive.read(pickled[0])))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ImportProblem(f"{path.name}: not a whole zip file ({error})") from error
    folder = pickled[0].removesuffix("data.pkl")
    for key, size in scan.storages.items():
        if sizes.get(f"{folder}data/{key}") != size:
            stored = sizes.get(f"{folder}data/{key}", 0)
            raise ImportProblem(f"{path.name}: storage {key} should have {size:,} bytes and has {stored:,}")
    return scan.names


def check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuses a zip bomb: PyTorch compresses nothing, so the entries together are no larger than the file."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ImportProblem(f"{path.name}: its entries are compressed, which PyTorch's are not")
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > size:
        raise ImportProblem(f"{path.name}: its entries say {total:,} bytes, the file has {size:,}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ImportProblem(f"{path.name}: two of its entries have one name")


def scan_legacy(file: IO[bytes], source: str) -> set[str]:
    """The names in a legacy file's pickle. Raises ImportProblem if its storages are larger than the file."""
    scan = Scan(source)
    if file.read(len(LEGACY_HEAD)) != LEGACY_HEAD:
        raise ImportProblem(f"{source}: not a PyTorch file: neither a zip file nor PyTorch's older format")
    for _ in ("protocol version", "system", "the object"):
        scan.load(file)
    total = sum(size + LEGACY_BLOCK for size in scan.storages.values())
    rest = len(file.read())  # of the file, where the storages are
    if total > rest:
        raise ImportProblem(f"{source}: its storages say {total:,} bytes, the file has {rest:,}")
    return scan.names


def is_pickle(file: IO[bytes]) -> bool:
    """Whether the file begins as a pickle of protocol 2 or later does; leaves its position."""
    start = file.tell()
    head = file.read(2)
    file.seek(start)
    return len(head) == 2 and head[:1] == pickle.PROTO and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL
