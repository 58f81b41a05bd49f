"""Labels of lines: inside the frame, over no line, over no other label."""

from flexquant.ensemble_builder.report.label_placement import Box, Label, place

FRAME = Box(0, 0, 600, 400)


def bowed(depth: float) -> tuple[tuple[float, float], ...]:
    """A line from corner to corner that hangs `depth` pixels in the middle."""
    return tuple((20 + 56.0 * at, 20 + 36.0 * at + depth * at * (10 - at) / 25) for at in range(11))


def test_labels_of_lines_that_share_both_ends() -> None:
    labels = [Label(name, 120, bowed(depth)) for name, depth in zip("abcde", (100, 97, 30, 0, -60), strict=True)]
    boxes = [placed.box for placed in place(labels, FRAME)]
    assert all(box.inside(FRAME) for box in boxes)
    assert not any(box.overlaps(other) for at, box in enumerate(boxes) for other in boxes[:at])
    corners = [corner for label in labels for corner in label.line]
    assert not any(box.holds(*corner) for box in boxes for corner in corners)


def test_a_label_without_neighbours_stays_near_its_line() -> None:
    [placed] = place([Label("only", 40, ((100, 200), (500, 200)))], FRAME)
    x, y = placed.anchor
    near_x, near_y = placed.box.nearest(x, y)
    assert y == 200
    assert abs(near_x - x) + abs(near_y - y) < 20


def test_a_label_wider_than_the_frame_is_placed_all_the_same() -> None:
    assert len(place([Label("long", 900, ((100, 200), (500, 200)))], FRAME)) == 1
