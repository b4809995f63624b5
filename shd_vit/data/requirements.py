"""What a plain install of shd_vit leaves out."""

from __future__ import annotations

from shd_vit.errors import DatasetError


def require_ffcv() -> None:
    """Refuse to go on without FFCV, saying how to install it. Its import takes seconds (numba).

    Raises:
        DatasetError: If ffcv, or a library that it needs, cannot be loaded.
    """
    try:
        import ffcv  # noqa: F401
    except (ImportError, OSError) as error:
        raise DatasetError(
            f'FFCV cannot be loaded ({error}): pip install "shd_vit[ffcv]", on Debian after '
            'apt-get install pkg-config libturbojpeg0-dev libopencv-dev'
        ) from error
