"""Which scans a path holds, and which reader reads each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dicom, itk, nifti, png, tiff
from .names import SUFFIXES, name_output, stem_of, suffix_of
from .scan import Caps, NoScan, Scan, ScanError, UnsupportedScan

READERS: dict[str, Callable[[tuple[Path, ...], Caps], Scan]] = {
    "NIfTI": lambda files, caps: nifti.read_nifti(files[0], caps),
    "DICOM": lambda files, caps: dicom.read_dicom(files, caps),
    "ITK": lambda files, caps: itk.read_itk(files[0], caps),
    "PNG": lambda files, caps: png.read_png(files[0], caps),
    "TIFF": lambda files, caps: tiff.read_tiff(files[0], caps),
}


@dataclass(frozen=True)
class Source:
    """One scan: the kind of its files, these, and its name without suffix, below the folder that was given."""

    kind: str
    files: tuple[Path, ...]
    stem: str
    suffix: str

    def read(self, caps: Caps) -> Scan:
        return READERS[self.kind](self.files, caps)

    def reread(self, path: Path, caps: Caps) -> Scan:
        """Read what was written in the place of this scan."""
        files = tuple(sorted(path.iterdir())) if path.is_dir() else (path,)
        return READERS[self.kind](files, caps)

    @property
    def output_name(self) -> str:
        """What the denoised scan is called, below the folder of outputs."""
        return name_output(self.stem, "denoised") + self.suffix

    @property
    def label(self) -> str:
        """For messages: the file, or the folder of several."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


def find_sources(path: Path) -> tuple[list[Source], list[ScanError]]:
    """Every scan at or below a path, and why other files that should be scans are none.

    A DICOM series gives one scan for each of its orientations and matrices, a file of several frames one by itself.
    Other files in a folder are taken for scans by their names alone.

    >>> folder = Path(nifti.__file__).parent
    >>> sources, errors = find_sources(folder)
    >>> len(sources), {type(error) for error in errors}
    (0, {<class 'monai_dnaprior.files.scan.NoScan'>})
    """
    if not path.exists():
        raise UnsupportedScan(path, "does not exist")
    if not path.is_dir():
        return sources_of(path)
    sources: list[Source] = []
    errors: list[ScanError] = []
    for files, unseen in walk(path):
        found, refused = sources_of_folder(files, path)
        sources, errors = sources + found, errors + unseen + refused
    outputs = Counter(name_output(source.stem, "denoised") for source in sources)
    twins = [source for source in sources if outputs[name_output(source.stem, "denoised")] > 1]
    errors += [UnsupportedScan(source.label, "has the name of another scan; rename one of them") for source in twins]
    return [source for source in sources if source not in twins], errors


def walk(top: Path) -> Iterator[tuple[list[Path], list[ScanError]]]:
    """The files of each folder at or below a path, and what there cannot be looked at; nothing hidden is."""
    closed: list[OSError] = []
    for root, folders, names in os.walk(top, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(root) / name for name in sorted(names) if not name.startswith(".")]
        links = [Path(root) / name for name in folders if (Path(root) / name).is_symlink()]
        unseen: list[ScanError] = [
            UnsupportedScan(link, "is a link to a folder, which is not followed") for link in links
        ]
        for file in files:
            if not file.exists():
                unseen.append(UnsupportedScan(file, "is a link that leads nowhere; fetch the file that it stands for"))
            elif not file.is_file():
                unseen.append(UnsupportedScan(file, "is no file that could be read"))
        yield [file for file in files if file.is_file()], unseen
    yield [], [UnsupportedScan(error.filename, f"cannot be looked into: {error.strerror}") for error in closed]


def sources_of(path: Path) -> tuple[list[Source], list[ScanError]]:
    """The scan that one file is."""
    kind = kind_of(path)
    if kind is None:
        raise UnsupportedScan(path, f"is of no known kind; supported are DICOM and {', '.join(SUFFIXES[:-1])}")
    errors = dicom.group_series([path])[1] if kind == "DICOM" else []
    suffix = ".dcm" if kind == "DICOM" else suffix_of(path.name)
    return [] if errors else [Source(kind, (path,), stem_of(path.name), suffix)], errors


def sources_of_folder(files: Sequence[Path], top: Path) -> tuple[list[Source], list[ScanError]]:
    """The scans among the files of one folder, which lies at or below the top."""
    kinds: dict[Path, str | None] = {}
    errors: list[ScanError] = []
    for file in files:
        try:
            kinds[file] = kind_of(file)
        except OSError as error:
            errors.append(UnsupportedScan(file, f"cannot be read: {error.strerror}"))
    errors += [NoScan(file, "is of no known kind") for file, kind in kinds.items() if kind is None]
    sources = [
        Source(kind, (file,), stem_below(top, file), suffix_of(file.name))
        for file, kind in kinds.items()
        if kind not in (None, "DICOM")
    ]
    stacks, refused = dicom.group_series([file for file, kind in kinds.items() if kind == "DICOM"])
    frames = [stack[0] for stack in stacks if len(stack) == 1 and dicom.holds_frames(stack[0])]
    sources += [Source("DICOM", (file,), stem_below(top, file), ".dcm") for file in frames]
    stacks = [stack for stack in stacks if stack[0] not in frames]
    for number, stack in enumerate(stacks):
        folder = str(stack[0].parent.relative_to(top))
        name = folder if len(stacks) == 1 else str(Path(folder) / f"series-{number + 1:02d}")
        sources.append(Source("DICOM", tuple(stack), name, ""))
    return sources, errors + refused


def stem_below(top: Path, file: Path) -> str:
    return str(file.parent.relative_to(top) / stem_of(file.name))


def kind_of(path: Path) -> str | None:
    """The kind of scan that a file is, by its name or by how it begins; None if it is none."""
    name = path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return "NIfTI"
    if name.endswith(itk.SUFFIXES):
        return "ITK"
    if name.endswith(tiff.SUFFIXES):
        return "TIFF"
    if name.endswith(png.SUFFIXES):
        return "PNG"
    if dicom.is_dicom(path):
        return "DICOM"
    return "NIfTI" if name.endswith((".hdr", ".img")) else None
