"""What all figures have in common."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from shd_vit.errors import ConfigError

FORMATS = ('.png', '.svg', '.pdf')
# Of Okabe and Ito: told apart by colour-blind eyes too.
COLORS = ('#0072B2', '#E69F00', '#009E73', '#D55E00', '#56B4E9', '#CC79A7', '#F0E442')


def check_output(path: str) -> Path:
    """Refuse a figure's file that could not be written, before anything is computed.

    Raises:
        ConfigError: If its ending is none of FORMATS, or its folder is not there.
    """
    out = Path(path)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f'--out {path!r} must end in one of {", ".join(FORMATS)}')
    if not out.parent.is_dir():
        raise ConfigError(f'--out {path!r}: there is no folder {str(out.parent)!r}')
    return out


def pyplot() -> ModuleType:
    """matplotlib.pyplot that draws into files, in our style."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    pyplot.rcParams.update({'font.size': 9, 'svg.fonttype': 'none', 'figure.dpi': 150})
    return pyplot
