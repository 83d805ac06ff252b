"""Decode on a GPU: the logits are read once, in memory order, and all further work is on the best thousands.

The logits of a level are cut into groups: 64 neighbours in memory where that is channels-last, else up to 64
neighbouring channels of a cell. The `top_n` best entries lie in the `top_n` best groups (ranked by their best entry,
ties by position): otherwise `top_n` groups would each hold something better. So one pass over the logits lists the
groups that pass the threshold (`_scan`); where that list is longer than 2 * `top_n`, it is shortened to between
`top_n` and that, which takes fewer passes over it than an exact cut (`_shorten`). The entries of the groups left are
listed (`_expand`), that list is shortened too, and what is left is ranked, which makes the choice exact, and decoded
(`_emit`). What is listed is (logit, position) packed into one integer; no two are equal, so the order in which
programs append to a list does not matter, and neither NaN nor a tie needs care after packing.

The more passes, the longer the lists that `_shorten` reads; all else hardly depends on it. The workspace is 8 bytes a
group (1/16 of fp16 logits in channels-last) and about 1024 * `top_n` bytes a level and image.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from retinanet.boxes import MAX_LOG_SIZE
from retinanet.types import NO_LABEL

LEVELS = 5
"""Levels a launch takes: kernels have a fixed number of arguments. More levels (ensembles) take more launches."""
GROUP = 64
"""Channels a group: more make the list of groups shorter and that of entries longer."""
CHUNK = 8192
"""Entries of a list that `_shorten` takes at once."""
KEY_BITS = {torch.float16: 19, torch.bfloat16: 16, torch.float32: 32}
"""The leading bits of a float32 that can differ from 0 in a number of each type."""


def decode(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    cell_anchors: Tensor,
    strides: Sequence[float],
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.decode` on a GPU."""
    batch = image_sizes.shape[0]
    rows = [min(top_n, level[0].numel()) for level in logits]
    scores = image_sizes.new_empty(batch, sum(rows), dtype=torch.float32)
    boxes = image_sizes.new_empty(batch, sum(rows), 4, dtype=torch.float32)
    labels = image_sizes.new_empty(batch, sum(rows))
    for first in range(0, len(logits), LEVELS):
        last = first + LEVELS
        _decode_levels(
            logits[first:last],
            deltas[first:last],
            image_sizes.contiguous(),
            cell_anchors[first:last].contiguous(),
            strides[2 * first : 2 * last],
            centre_offset,
            logit_threshold,
            top_n,
            sum(rows[:first]),
            (scores, boxes, labels),
        )
    return scores, boxes, labels


def _decode_levels(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    cell_anchors: Tensor,
    strides: Sequence[float],
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
    first_row: int,
    outputs: Sequence[Tensor],
) -> None:
    """Write to `outputs` what up to `LEVELS` levels yield, from `first_row` on; absent levels have no cells."""
    batch, channels = logits[0].shape[:2]
    absent = LEVELS - len(logits)
    cells = [level.shape[2] * level.shape[3] for level in logits] + [0] * absent
    widths = [level.shape[3] for level in logits] + [1] * absent
    assert max(cells) * channels < 2**30
    logits, logits_last = _one_layout(logits)
    deltas, deltas_last = _one_layout(deltas)
    logits, deltas = logits + logits[:1] * absent, deltas + deltas[:1] * absent

    chunks = triton.cdiv(channels, GROUP)  # groups a cell, unless channels-last
    groups = [triton.cdiv(n * channels, GROUP) if logits_last else n * chunks for n in cells]
    capacity = 2 * top_n  # of a list that has been shortened
    entries = [capacity * GROUP] * LEVELS
    group_bits, entry_bits = max(groups).bit_length(), (channels * max(cells)).bit_length()
    key_bits = KEY_BITS[logits[0].dtype]
    group_list = image_sizes.new_empty(batch, sum(groups))
    entry_list = image_sizes.new_empty(batch, sum(entries))
    # An allocation each: compilers surround launches that write parts of one tensor with copies of all of it.
    found_groups, found_entries = (image_sizes.new_zeros(batch, LEVELS, dtype=torch.int32) for _ in range(2))
    floors = image_sizes.new_empty(batch, LEVELS)

    tile = 64
    if logits_last:
        tiles = sum(triton.cdiv(n, tile) for n in groups)
    else:
        tiles = chunks * sum(triton.cdiv(n, tile) for n in cells)
    wrap_triton(_scan)[(tiles, batch)](
        *logits,
        *cells,
        group_list,
        found_groups,
        channels,
        logit_threshold,
        group_bits,
        CHANNELS_LAST=logits_last,
        KEY_BITS=key_bits,
        GROUP=GROUP,
        LEVELS=LEVELS,
        TILE=tile,
        num_warps=4,
    )
    wrap_triton(_shorten)[(LEVELS, batch)](
        group_list,
        *groups,
        found_groups,
        floors,
        top_n,
        capacity,
        key_bits + group_bits,
        LEVELS=LEVELS,
        CHUNK=CHUNK,
        num_warps=16,
    )
    tile = 16
    wrap_triton(_expand)[(triton.cdiv(capacity, tile), LEVELS, batch)](
        *logits,
        *cells,
        group_list,
        *groups[:-1],
        found_groups,
        floors,
        entry_list,
        found_entries,
        channels,
        logit_threshold,
        capacity,
        sum(groups),
        group_bits,
        entry_bits,
        CHANNELS_LAST=logits_last,
        KEY_BITS=key_bits,
        GROUP=GROUP,
        LEVELS=LEVELS,
        TILE=tile,
        num_warps=4,
    )
    wrap_triton(_shorten)[(LEVELS, batch)](
        entry_list,
        *entries,
        found_entries,
        floors,
        top_n,
        capacity,
        key_bits + entry_bits,
        LEVELS=LEVELS,
        CHUNK=CHUNK,
        num_warps=16,
    )
    wrap_triton(_emit)[(triton.cdiv(capacity, tile), LEVELS, batch)](
        *deltas,
        *cells,
        *widths,
        *strides,
        *[1.0] * (2 * absent),
        entry_list,
        found_entries,
        image_sizes,
        cell_anchors,
        *outputs,
        outputs[0].shape[1],
        first_row,
        channels,
        cell_anchors.shape[1],
        centre_offset,
        top_n,
        capacity * GROUP,
        entry_bits,
        CHANNELS_LAST=deltas_last,
        KEY_BITS=key_bits,
        MAX_LOG_SIZE=MAX_LOG_SIZE,
        NO_LABEL=NO_LABEL,
        LEVELS=LEVELS,
        ROWS=tile,
        COLUMNS=128,
        num_warps=4,
    )


def _one_layout(maps: Sequence[Tensor]) -> tuple[list[Tensor], bool]:
    """Maps of several levels in one memory layout, and whether it is channels-last."""
    if all(level.is_contiguous() for level in maps):
        return list(maps), False
    return [level.contiguous(memory_format=torch.channels_last) for level in maps], True


@triton.jit
def _scan(
    logits0,
    logits1,
    logits2,
    logits3,
    logits4,
    cells0,
    cells1,
    cells2,
    cells3,
    cells4,
    group_list,
    found_groups,
    channels,
    threshold,
    index_bits,
    CHANNELS_LAST: tl.constexpr,
    KEY_BITS: tl.constexpr,
    GROUP: tl.constexpr,
    LEVELS: tl.constexpr,
    TILE: tl.constexpr,
):
    """List the groups whose best logit passes the threshold: grid (tiles of all levels, images)."""
    image = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    groups0 = _groups(cells0, channels, CHANNELS_LAST, GROUP)
    groups1 = _groups(cells1, channels, CHANNELS_LAST, GROUP)
    groups2 = _groups(cells2, channels, CHANNELS_LAST, GROUP)
    groups3 = _groups(cells3, channels, CHANNELS_LAST, GROUP)
    groups4 = _groups(cells4, channels, CHANNELS_LAST, GROUP)
    tiles0 = _tiles(cells0, channels, CHANNELS_LAST, GROUP, TILE)
    tiles1 = _tiles(cells1, channels, CHANNELS_LAST, GROUP, TILE)
    tiles2 = _tiles(cells2, channels, CHANNELS_LAST, GROUP, TILE)
    tiles3 = _tiles(cells3, channels, CHANNELS_LAST, GROUP, TILE)
    level = (tile >= tiles0).to(tl.int32)
    level += (tile >= tiles0 + tiles1).to(tl.int32)
    level += (tile >= tiles0 + tiles1 + tiles2).to(tl.int32)
    level += (tile >= tiles0 + tiles1 + tiles2 + tiles3).to(tl.int32)
    tile -= _before(level, tiles0, tiles1, tiles2, tiles3)
    cells = _pick(level, cells0, cells1, cells2, cells3, cells4)
    logits = _pick(level, logits0, logits1, logits2, logits3, logits4) + image * channels * cells
    group_list += image * (groups0 + groups1 + groups2 + groups3 + groups4)
    group_list += _before(level, groups0, groups1, groups2, groups3)

    # Neighbouring rows of the tile are neighbours in memory.
    lane = tl.arange(0, GROUP)[None, :]
    if CHANNELS_LAST:
        group = tile * TILE + tl.arange(0, TILE)
        entry = group[:, None] * GROUP + lane
        inside = entry < cells * channels
    else:
        chunks = tl.cdiv(channels, GROUP)
        tiles = tl.cdiv(cells, TILE)
        cell = (tile % tiles) * TILE + tl.arange(0, TILE)
        chunk = tile // tiles
        group = cell * chunks + chunk
        channel = chunk * GROUP + lane
        entry = channel * cells + cell[:, None]
        inside = (cell < cells)[:, None] & (channel < channels)
    logit = tl.load(logits + entry, inside, float("-inf"))
    best = tl.max(_finite(logit), 1)
    passes = best > threshold
    count = tl.sum(passes.to(tl.int32), 0)
    if count > 0:
        slot = tl.atomic_add(found_groups + image * LEVELS + level, count) + tl.cumsum(passes.to(tl.int32), 0) - 1
        packed = _pack(_unsigned_zero(best), group, index_bits, KEY_BITS)
        tl.store(group_list + slot, packed, passes)


@triton.jit
def _shorten(
    source,
    size0,
    size1,
    size2,
    size3,
    size4,
    found,
    floors,
    top_n,
    capacity,
    bits,
    LEVELS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Cut each list longer than `capacity` to its `top_n` to `capacity` largest, and note a floor under what is left.

    Grid (levels, images). The floor is found digit by digit, 8 bits at a time, from a histogram of what shares the
    digits found so far.
    """
    image = tl.program_id(1).to(tl.int64)
    level = tl.program_id(0)
    source += image * (size0 + size1 + size2 + size3 + size4) + _before(level, size0, size1, size2, size3)
    count = tl.load(found + image * LEVELS + level)
    lane = tl.arange(0, CHUNK)
    floor = tl.full([], 0, tl.int64)
    if count > capacity:
        wanted = top_n  # of those that share the digits found so far
        chosen = count
        shift = bits
        while chosen > capacity:
            above = shift
            shift = tl.maximum(shift - 8, 0)
            histogram = tl.zeros([256], tl.int32)
            for start in range(0, count, CHUNK):
                packed = tl.load(source + start + lane, start + lane < count, 0)
                shares = (start + lane < count) & ((packed >> above) == (floor >> above))
                digit = (packed >> shift) & ((1 << (above - shift)) - 1)
                histogram += tl.histogram(digit.to(tl.int32), 256, mask=shares)
            at_least = tl.cumsum(histogram, 0, reverse=True)
            enough = at_least >= wanted
            floor += (tl.sum(enough.to(tl.int32), 0) - 1).to(tl.int64) << shift
            chosen = top_n - wanted + tl.min(tl.where(enough, at_least, count), 0)
            wanted -= tl.max(tl.where(enough, 0, at_least), 0)

        kept = 0
        for start in range(0, count, CHUNK):
            packed = tl.load(source + start + lane, start + lane < count, -1)
            stays = (packed >= floor).to(tl.int32)
            slot = kept + tl.cumsum(stays, 0) - 1
            tl.debug_barrier()  # all have read what some overwrite
            tl.store(source + slot, packed, stays != 0)
            kept += tl.sum(stays, 0)
        tl.store(found + image * LEVELS + level, kept)
    tl.store(floors + image * LEVELS + level, floor)


@triton.jit
def _expand(
    logits0,
    logits1,
    logits2,
    logits3,
    logits4,
    cells0,
    cells1,
    cells2,
    cells3,
    cells4,
    group_list,
    groups0,
    groups1,
    groups2,
    groups3,
    found_groups,
    floors,
    entry_list,
    found_entries,
    channels,
    threshold,
    capacity,
    groups,
    group_bits,
    entry_bits,
    CHANNELS_LAST: tl.constexpr,
    KEY_BITS: tl.constexpr,
    GROUP: tl.constexpr,
    LEVELS: tl.constexpr,
    TILE: tl.constexpr,
):
    """List the entries of the groups left that may be among the best: grid (tiles of groups, levels, images)."""
    image = tl.program_id(2).to(tl.int64)
    level = tl.program_id(1)
    list_index = image * LEVELS + level
    count = tl.load(found_groups + list_index)
    if tl.program_id(0) * TILE < count:
        cells = _pick(level, cells0, cells1, cells2, cells3, cells4)
        logits = _pick(level, logits0, logits1, logits2, logits3, logits4) + image * channels * cells
        group_list += image * groups + _before(level, groups0, groups1, groups2, groups3)
        lane = tl.arange(0, TILE * GROUP)
        row = tl.program_id(0) * TILE + lane // GROUP
        group = _index(tl.load(group_list + row, row < count, 0), group_bits)
        if CHANNELS_LAST:
            entry = group * GROUP + lane % GROUP
            inside = (row < count) & (entry < cells * channels)
            logit = tl.load(logits + entry, inside, float("-inf"))
        else:
            chunks = tl.cdiv(channels, GROUP)
            cell = group // chunks
            channel = (group % chunks) * GROUP + lane % GROUP
            entry = cell * channels + channel
            inside = (row < count) & (channel < channels)
            logit = tl.load(logits + channel * cells + cell, inside, float("-inf"))
        logit = _unsigned_zero(_finite(logit))
        packed = _pack(logit, entry, entry_bits, KEY_BITS)
        floor = tl.load(floors + list_index) >> group_bits
        passes = ((logit > threshold) & (packed >> entry_bits >= floor)).to(tl.int32)
        slot = tl.atomic_add(found_entries + list_index, tl.sum(passes, 0)) + tl.cumsum(passes, 0) - 1
        tl.store(entry_list + list_index * capacity * GROUP + slot, packed, passes != 0)


@triton.jit
def _emit(
    deltas0,
    deltas1,
    deltas2,
    deltas3,
    deltas4,
    cells0,
    cells1,
    cells2,
    cells3,
    cells4,
    width0,
    width1,
    width2,
    width3,
    width4,
    vertical0,
    horizontal0,
    vertical1,
    horizontal1,
    vertical2,
    horizontal2,
    vertical3,
    horizontal3,
    vertical4,
    horizontal4,
    entry_list,
    found_entries,
    image_sizes,
    cell_anchors,
    scores,
    boxes,
    labels,
    rows,
    first_row,
    channels,
    anchors,
    centre_offset,
    top_n,
    list_size,
    index_bits,
    CHANNELS_LAST: tl.constexpr,
    KEY_BITS: tl.constexpr,
    MAX_LOG_SIZE: tl.constexpr,
    NO_LABEL: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Decode the entries left and write the best where they rank: grid (tiles of entries, levels, images)."""
    image = tl.program_id(2).to(tl.int64)
    level = tl.program_id(1)
    cells = _pick(level, cells0, cells1, cells2, cells3, cells4)
    width = _pick(level, width0, width1, width2, width3, width4)
    vertical = _pick(level, vertical0, vertical1, vertical2, vertical3, vertical4)
    horizontal = _pick(level, horizontal0, horizontal1, horizontal2, horizontal3, horizontal4)
    deltas = _pick(level, deltas0, deltas1, deltas2, deltas3, deltas4) + image * anchors * 4 * cells
    entry_list += (image * LEVELS + level) * list_size
    count = tl.load(found_entries + image * LEVELS + level)
    first = tl.program_id(0) * ROWS
    lane = first + tl.arange(0, ROWS)

    packed = tl.load(entry_list + lane, lane < count, 0)
    ahead = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in tl.range(0, tl.where(first < count, count, 0), COLUMNS, loop_unroll_factor=4):
        column = start + tl.arange(0, COLUMNS)
        other = tl.load(entry_list + column, column < count, 0)
        ahead += (other[None, :] > packed[:, None]).to(tl.int32)
    rank = tl.where(lane < count, tl.sum(ahead, 1), lane)  # padding follows

    entry = tl.where(lane < count, _index(packed, index_bits), 0)
    classes = channels // anchors
    cell = entry // channels
    anchor = entry % channels // classes
    label = entry % classes
    corner = deltas + _offset(cell, anchor * 4, cells, anchors * 4, CHANNELS_LAST)
    step = 1 if CHANNELS_LAST else cells
    dx = tl.load(corner, lane < count, float("inf")).to(tl.float32)
    dy = tl.load(corner + step, lane < count, 0.0).to(tl.float32)
    dw = tl.load(corner + 2 * step, lane < count, 0.0).to(tl.float32)
    dh = tl.load(corner + 3 * step, lane < count, 0.0).to(tl.float32)
    found = (tl.abs(dx) < float("inf")) & (tl.abs(dy) < float("inf"))
    found &= (tl.abs(dw) < float("inf")) & (tl.abs(dh) < float("inf"))

    base = cell_anchors + (level * anchors + anchor) * 4
    centre_x = (cell % width + centre_offset) * horizontal
    centre_y = (cell // width + centre_offset) * vertical
    present = lane < count  # absent levels have no anchors either
    left, right = tl.load(base, present, 0.0), tl.load(base + 2, present, 0.0)
    top, bottom = tl.load(base + 1, present, 0.0), tl.load(base + 3, present, 0.0)
    x1, x2 = _side(left, right, centre_x, dx, dw, MAX_LOG_SIZE)
    y1, y2 = _side(top, bottom, centre_y, dy, dh, MAX_LOG_SIZE)
    height = tl.load(image_sizes + image * 2).to(tl.float32)
    width = tl.load(image_sizes + image * 2 + 1).to(tl.float32)

    rows0, rows1 = tl.minimum(top_n, channels * cells0), tl.minimum(top_n, channels * cells1)
    rows2, rows3 = tl.minimum(top_n, channels * cells2), tl.minimum(top_n, channels * cells3)
    row = image * rows + first_row + _before(level, rows0, rows1, rows2, rows3) + rank
    inside = rank < tl.minimum(top_n, channels * cells)
    score = 1 / (1 + tl.exp(-_logit(packed, index_bits, KEY_BITS)))
    tl.store(scores + row, tl.where(found, score, 0.0), inside)
    tl.store(labels + row, tl.where(found, label, NO_LABEL), inside)
    tl.store(boxes + row * 4, tl.where(found, _clip(x1, width), 0.0), inside)
    tl.store(boxes + row * 4 + 1, tl.where(found, _clip(y1, height), 0.0), inside)
    tl.store(boxes + row * 4 + 2, tl.where(found, _clip(x2, width), 0.0), inside)
    tl.store(boxes + row * 4 + 3, tl.where(found, _clip(y2, height), 0.0), inside)


@triton.jit
def _pick(level, value0, value1, value2, value3, value4):
    """The level's own of five values."""
    high = tl.where(level == 3, value3, value4)
    return tl.where(level == 0, value0, tl.where(level == 1, value1, tl.where(level == 2, value2, high)))


@triton.jit
def _before(level, value0, value1, value2, value3):
    """The sum of the values of all levels before `level`."""
    low = tl.where(level > 0, value0, 0) + tl.where(level > 1, value1, 0)
    return low + tl.where(level > 2, value2, 0) + tl.where(level > 3, value3, 0)


@triton.jit
def _groups(cells, channels, CHANNELS_LAST: tl.constexpr, GROUP: tl.constexpr):
    """How many groups a level has."""
    if CHANNELS_LAST:
        return tl.cdiv(cells * channels, GROUP)
    else:
        return cells * tl.cdiv(channels, GROUP)


@triton.jit
def _tiles(cells, channels, CHANNELS_LAST: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr):
    """How many tiles of `TILE` groups a level has."""
    if CHANNELS_LAST:
        return tl.cdiv(tl.cdiv(cells * channels, GROUP), TILE)
    else:
        return tl.cdiv(cells, TILE) * tl.cdiv(channels, GROUP)


@triton.jit
def _offset(cell, channel, cells, channels, CHANNELS_LAST: tl.constexpr):
    """Where the map of a level holds a channel of a cell."""
    if CHANNELS_LAST:
        return cell * channels + channel
    else:
        return channel * cells + cell


@triton.jit
def _finite(logit):
    """Logits as float32, -inf for what is not finite."""
    logit = logit.to(tl.float32)
    return tl.where(logit < float("inf"), logit, float("-inf"))


@triton.jit
def _unsigned_zero(logit):
    """-0.0 becomes 0.0, with which it ties."""
    return tl.where(logit == 0, 0.0, logit)


@triton.jit
def _pack(logit, index, index_bits, KEY_BITS: tl.constexpr):
    """One int64 ≥ 0, larger for a higher logit, then for a lower index."""
    key = _ordered(logit.to(tl.int32, bitcast=True) >> (32 - KEY_BITS), KEY_BITS).to(tl.int64) + (1 << (KEY_BITS - 1))
    return (key << index_bits) | (((1 << index_bits) - 1) - index)


@triton.jit
def _index(packed, index_bits):
    """The index in a packed integer."""
    mask = (1 << index_bits) - 1
    return (mask - (packed & mask)).to(tl.int32)


@triton.jit
def _logit(packed, index_bits, KEY_BITS: tl.constexpr):
    """The float32 logit in a packed integer."""
    key = (packed >> index_bits) - (1 << (KEY_BITS - 1))
    return (_ordered(key.to(tl.int32), KEY_BITS) << (32 - KEY_BITS)).to(tl.float32, bitcast=True)


@triton.jit
def _ordered(bits, KEY_BITS: tl.constexpr):
    """From a float's leading bits to integers that are ordered as the floats are; its own inverse."""
    return bits ^ ((bits >> 31) & ((1 << (KEY_BITS - 1)) - 1))


@triton.jit
def _side(low, high, centre, shift, log_size, MAX_LOG_SIZE: tl.constexpr):
    """Both ends of a decoded box along one axis (`boxes.shift_anchors`, then `boxes.decode`)."""
    low += centre
    high += centre
    size = high - low
    middle = shift * size + (low + 0.5 * size)
    half = 0.5 * tl.exp(tl.minimum(log_size, MAX_LOG_SIZE)) * size
    return middle - half, middle + half


@triton.jit
def _clip(coordinate, limit):
    """The coordinate within the picture (`boxes.clip`)."""
    return tl.minimum(tl.maximum(coordinate, 0.0), limit)
