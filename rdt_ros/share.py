"""Where the files beside the code are: the source tree, or the installed package's share folder."""

from __future__ import annotations

from pathlib import Path


def share_dir() -> Path:
    """The folder that holds `config/` and `launch/`."""
    package = Path(__file__).resolve().parent
    if (package.parent / "config").is_dir():
        return package.parent
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("rdt_ros"))


def checkpoint_path(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint that is shipped under this name, or the path itself."""
    shipped = share_dir() / "config" / "checkpoints" / name_or_path
    return shipped if not Path(name_or_path).exists() and shipped.is_dir() else Path(name_or_path)
