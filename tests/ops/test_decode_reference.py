import math

import pytest
import torch
from decode_cases import BOX_TOLERANCE, make_case, spoil

from retinanet.errors import UsageError
from retinanet.ops.decode import decode


def transcribed(logits, deltas, image_sizes, cell_anchors, strides, centre_offset, threshold, top_n):
    """Decode as its description reads, one number after the other."""
    images = []
    for image in range(len(image_sizes)):
        rows = []
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            rows += level_rows(
                logit[image], delta[image], image_sizes[image], cell_anchors[level], strides[level], centre_offset,
                threshold, top_n,
            )  # fmt: skip
        images.append(rows)
    return images


def level_rows(logit, delta, image_size, cell_anchors, stride, centre_offset, threshold, top_n):
    anchors, (channels, height, width) = len(cell_anchors), logit.shape
    classes = channels // anchors
    passing = []
    for y in range(height):
        for x in range(width):
            for a in range(anchors):
                for c in range(classes):
                    value = logit[a * classes + c, y, x].item()
                    if math.isfinite(value) and value > math.log(threshold / (1 - threshold)):
                        passing.append((value, y, x, a, c))
    passing.sort(key=lambda row: -row[0])  # stable: ties keep their order
    rows = []
    for value, y, x, a, c in passing[:top_n]:
        d = delta[a * 4 : a * 4 + 4, y, x].tolist()
        if all(map(math.isfinite, d)):
            centre = (x + centre_offset) * stride[1], (y + centre_offset) * stride[0]
            box = [[], []]
            for axis in range(2):
                low, high = cell_anchors[a, axis].item(), cell_anchors[a, axis + 2].item()
                middle = centre[axis] + (low + high) / 2 + d[axis] * (high - low)
                half = (high - low) * min(math.exp(min(d[axis + 2], 50)), 1000 / 16) / 2
                limit = image_size[1 - axis].item()
                box[axis] = [min(max(end, 0), limit) for end in (middle - half, middle + half)]
            rows.append((1 / (1 + math.exp(-value)), [box[0][0], box[1][0], box[0][1], box[1][1]], c))
        else:
            rows.append((0.0, [0.0] * 4, -1))
    room = min(top_n, channels * height * width)
    return rows + [(0.0, [0.0] * 4, -1)] * (room - len(rows))


def assert_equals_transcription(case, *, centre_offset=0.5, threshold=0.05, top_n=20):
    scores, boxes, labels = decode(*case, centre_offset=centre_offset, score_threshold=threshold, top_n=top_n)
    expected = transcribed(*case, centre_offset, threshold, top_n)
    assert labels.tolist() == [[row[2] for row in image] for image in expected]
    torch.testing.assert_close(scores, torch.tensor([[row[0] for row in image] for image in expected]))
    expected_boxes = torch.tensor([[row[1] for row in image] for image in expected])
    torch.testing.assert_close(boxes, expected_boxes, rtol=0, atol=BOX_TOLERANCE)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_is_what_its_description_says(dtype, channels_last):
    assert_equals_transcription(make_case(batch=4, dtype=dtype, channels_last=channels_last))


@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize("classes", [1, 7])
def test_any_number_of_anchors_and_classes(anchors, classes):
    assert_equals_transcription(make_case(anchors=anchors, classes=classes), centre_offset=0.0, top_n=1000)


def test_ties_go_to_the_lower_index():
    logits, *rest = make_case()
    assert_equals_transcription(([level.round() for level in logits], *rest))
    assert_equals_transcription(([torch.zeros_like(level) for level in logits], *rest))


def test_what_is_not_finite_never_comes_out():
    logits, deltas, *rest = make_case()
    assert_equals_transcription(([spoil(level) for level in logits], [spoil(level) for level in deltas], *rest))


def test_deltas_of_any_size_stay_within_the_picture():
    logits, deltas, *rest = make_case()
    assert_equals_transcription((logits, [1000 * level for level in deltas], *rest))


def test_a_score_at_the_threshold_does_not_pass():
    logits, *rest = make_case(sizes=((1, 2),), anchors=1, classes=1, batch=1)
    logits[0].zero_()
    for threshold, count in ((0.5, 0), (0.49999, 2)):
        scores, _, _ = decode(logits, *rest, centre_offset=0.5, score_threshold=threshold)
        assert (scores > 0).sum() == count


def test_threshold_zero_lets_every_score_above_zero_pass():
    logits, *rest = make_case(sizes=((1, 3),), anchors=1, classes=1, batch=1)
    logits[0][:] = torch.tensor([-200.0, -80.0, 3.0])
    scores, _, _ = decode(logits, *rest, centre_offset=0.5, score_threshold=0)
    assert (scores > 0).tolist() == [[True, True, False]]


@pytest.mark.parametrize("settings", [{"score_threshold": 1.0}, {"score_threshold": -0.1}, {"top_n": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match=str(*settings.values())):
        decode(*make_case(), centre_offset=0.5, **settings)
