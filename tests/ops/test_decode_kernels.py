import pytest
import torch
from decode_cases import BOX_TOLERANCE, make_case, spoil
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.ops.decode import reference
from retinanet.ops.decode import triton as kernels

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # of the interpreter's numpy
]


def run(decode, case, device="cpu", *, threshold=-2.9, top_n=20, centre_offset=0.5):
    logits, deltas, image_sizes, cell_anchors, strides = case
    flat = [pixels for pair in strides for pixels in pair]
    maps = [[level.to(device) for level in levels] for levels in (logits, deltas)]
    results = decode(*maps, image_sizes.to(device), cell_anchors.to(device), flat, centre_offset, threshold, top_n)
    return [result.cpu() for result in results]


def assert_kernels_agree(case, device, **options):
    """The same entries in the same order; scores to 4 roundings of float32, as exp and the division may differ."""
    scores, boxes, labels = run(kernels.decode, case, device, **options)
    expected_scores, expected_boxes, expected_labels = run(reference.decode, case, **options)
    assert torch.equal(labels, expected_labels)
    torch.testing.assert_close(scores, expected_scores, rtol=4 * 2**-23, atol=0)
    torch.testing.assert_close(boxes, expected_boxes, rtol=0, atol=BOX_TOLERANCE)
    assert boxes.isfinite().all()
    return expected_labels


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_dtype_and_layout(dtype, channels_last, device):
    assert_kernels_agree(make_case(batch=4, dtype=dtype, channels_last=channels_last), device)


def test_layouts_may_be_mixed(device):
    logits, deltas, *rest = make_case()
    logits[1], deltas[0] = logits[1].contiguous(), deltas[0].contiguous()
    assert_kernels_agree((logits, deltas, *rest), device)


@pytest.mark.parametrize(("anchors", "classes"), [(1, 1), (1, 64), (1, 1203), (9, 1), (5, 13)])
def test_any_number_of_anchors_and_classes(anchors, classes, device):
    assert_kernels_agree(make_case(batch=1, anchors=anchors, classes=classes, sizes=((3, 5), (2, 2))), device)


@pytest.mark.parametrize("levels", [1, 7])
def test_any_number_of_levels(levels, device):
    assert_kernels_agree(make_case(sizes=((3, 2), (1, 1)) * levels), device)


@pytest.mark.parametrize("top_n", [1, 20, 1000])
def test_every_score_passes(top_n, device):
    labels = assert_kernels_agree(make_case(batch=1, dtype=torch.float16), device, threshold=-87.0, top_n=top_n)
    assert (labels >= 0).all()


def test_none_passes(device):
    labels = assert_kernels_agree(make_case(mean=-50), device)
    assert (labels == -1).all()


@pytest.mark.parametrize("value", [-0.0, 1.5])
def test_all_equal(value, device):
    logits, *rest = make_case(classes=70)
    assert_kernels_agree(([torch.full_like(level, value) for level in logits], *rest), device, top_n=150)


def test_many_ties(device):
    logits, *rest = make_case(classes=70)
    assert_kernels_agree(([level.round() for level in logits], *rest), device, top_n=150)


def draw_lists(kind, sizes, bits):
    """Lists of different integers of `bits` bits."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        if kind == "spread":
            drawn = torch.randint(2**bits, (size,), generator=generator)
            assert len(drawn.unique()) == size
        else:
            drawn = torch.randperm(size, generator=generator) + {"low": 0, "high": 2**bits - size}[kind]
        yield drawn


@pytest.mark.parametrize("kind", ["spread", "low", "high"])
@pytest.mark.parametrize("chunk", [32, 1024])
def test_a_long_list_is_cut_to_its_largest_and_no_other_is_touched(chunk, kind, device):
    """Five lists, the middle three longer than the capacity, in memory of 400 entries each."""
    found, top_n, capacity, bits = [0, 61, 300, 399, 60], 30, 60, 37
    lists = list(draw_lists(kind, found, bits))
    memory = torch.full((1, 2000), -7)
    for level, values in enumerate(lists):
        memory[0, 400 * level : 400 * level + len(values)] = values
    memory, left = memory.to(device), torch.tensor([found], dtype=torch.int32, device=device)
    floors = memory.new_empty(1, 5)
    kernels._shorten[(5, 1)](
        memory, *[400] * 5, left, floors, top_n, capacity, bits, LEVELS=5, CHUNK=chunk, num_warps=4
    )
    for level, values in enumerate(lists):
        count, floor = left[0, level].item(), floors[0, level].item()
        kept = memory[0, 400 * level : 400 * level + count].cpu()
        if len(values) <= capacity:
            assert torch.equal(kept, values)
            assert floor == 0
        else:
            assert top_n <= count <= capacity
            assert torch.equal(kept.sort().values, values.sort().values[-count:])
            assert values.sort().values[-count - 1] < floor <= kept.min()


def test_lists_of_many_chunks(device, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 32)
    logits, *rest = make_case(classes=70)
    assert_kernels_agree(([level.round(decimals=1) for level in logits], *rest), device, top_n=30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_and_deltas_that_are_not_finite(dtype, device):
    logits, deltas, *rest = make_case(dtype=dtype)
    assert_kernels_agree(([spoil(level) for level in logits], [spoil(level) for level in deltas], *rest), device)


def test_deltas_of_any_size_stay_within_the_picture(device):
    logits, deltas, *rest = make_case()
    assert_kernels_agree((logits, [100 * level.sign() for level in deltas], *rest), device)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    channels_last=st.booleans(),
    anchors=st.integers(1, 3),
    classes=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6),
    decimals=st.integers(0, 3),
    top_n=st.integers(1, 70),
)
def test_whatever_the_shape(seed, dtype, channels_last, anchors, classes, sizes, decimals, top_n):
    case = make_case(anchors=anchors, classes=classes, sizes=sizes, dtype=dtype, channels_last=channels_last, seed=seed)
    case = ([level.float().round(decimals=decimals).to(dtype) for level in case[0]], *case[1:])
    assert_kernels_agree(case, "cuda" if torch.cuda.is_available() else "cpu", top_n=top_n)


def test_permuting_the_batch_permutes_the_result(device):
    logits, deltas, image_sizes, *rest = make_case(batch=4)
    order = torch.tensor([2, 0, 3, 1])
    results = run(kernels.decode, (logits, deltas, image_sizes, *rest), device)
    permuted = ([level[order] for level in logits], [level[order] for level in deltas], image_sizes[order], *rest)
    for result, other in zip(results, run(kernels.decode, permuted, device), strict=True):
        assert torch.equal(result[order], other)
