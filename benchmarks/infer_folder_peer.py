"""torchvision's way through a folder, as its user writes it: a DataLoader whose processes decode, and COCO results."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from contestants import DEVICE, GPU, detect_by_peer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from retinanet.device import choose_workers


class Photographs(Dataset):
    """Ids and pictures, uint8 `[3, H, W]`."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the decoder is the peer's own
            return index + 1, decode_image(self.paths[index], ImageReadMode.RGB)


def infer_by_peer(peer: nn.Module, paths: Sequence[str], *, output: Path, batch: int) -> None:
    """Pictures are uint8 until they are on the GPU. All of `paths` must come through: they are counted."""
    loader = DataLoader(
        Photographs(paths), batch_size=batch, num_workers=choose_workers(None), collate_fn=list, pin_memory=GPU
    )
    entries, images = [], 0
    for samples in loader:
        pictures = [picture.to(DEVICE, non_blocking=True) for _, picture in samples]
        for (image_id, _), found in zip(samples, detect_by_peer(peer, pictures), strict=True):
            images += 1
            columns = [found[name].cpu() for name in ("boxes", "labels", "scores")]
            for (x1, y1, x2, y2), label, score in zip(*(column.tolist() for column in columns), strict=True):
                box = [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)]
                entries.append({"image_id": image_id, "category_id": label, "bbox": box, "score": round(score, 6)})
    output.write_text(json.dumps(entries))
    assert images == len(paths), f"torchvision's loop saw {images} of {len(paths)} images"
