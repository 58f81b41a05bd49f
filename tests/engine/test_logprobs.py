import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.logprobs import LEAST, score

# Multiples of 1/16, so that ties occur.
LOGITS = st.lists(st.integers(-160, 160).map(lambda n: n / 16) | st.just(-math.inf), min_size=1, max_size=40).filter(
    lambda values: max(values) > -math.inf
)


@settings(deadline=None, max_examples=200)
@given(logits=LOGITS, top=st.integers(0, 45), data=st.data())
def test_scores_are_those_of_the_definition(logits: list[float], top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    total = math.log(math.fsum(math.exp(logit) for logit in logits))
    expected = [max(logit - total, LEAST) for logit in logits]
    order = sorted(range(len(logits)), key=lambda id_: (-logits[id_], id_))[:top]

    found = score(np.array(logits, np.float32), token, top)

    assert found.token == token
    assert found.logprob == pytest.approx(expected[token], abs=1e-9)
    assert [id_ for id_, _ in found.top] == order
    assert [logprob for _, logprob in found.top] == pytest.approx([expected[id_] for id_ in order], abs=1e-9)
    assert dict(found.top).get(token, found.logprob) == found.logprob, "one token, one value"


@pytest.mark.parametrize("logits", [[0.0, math.nan], [math.inf, 0.0], [-math.inf] * 2])
def test_logits_that_are_no_numbers_are_an_error(logits: list[float]) -> None:
    with pytest.raises(FlexQuantError, match="not numbers"):
        score(np.array(logits, np.float32), 0, 1)
