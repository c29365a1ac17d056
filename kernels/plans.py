"""How a kernel is cut for a device: sizes of tiles, warps, what of W_hh stays on chip."""

from typing import NamedTuple


class Plan(NamedTuple):
    """BLOCK_B sequences a program, TILES tiles of BLOCK_H hidden units, KEPT tiles of W_hh on chip.

    warps: of 32 threads each.
    """

    block_b: int
    block_h: int
    tiles: int
    kept: int
    warps: int

    def constants(self):
        """As `resident.py` names them."""
        return {
            "BLOCK_B": self.block_b,
            "BLOCK_H": self.block_h,
            "TILES": self.tiles,
            "KEPT": self.kept,
        }
