"""Score matrices and masks to try gates on."""

import math
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

WIDEST = 5
quick = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def batches(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32", "float64")) -> tuple[Any, Any]:
    """(scores [n, K], eligible): many ties, extremes, infinities and NaN; a mask of either shape, or none."""
    shape = (draw(st.integers(0, 7)), draw(st.integers(1, WIDEST)))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    width = 8 * dtype.itemsize
    few = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 0.5, 1.0, 3.0])
    usual = st.floats(-8, 8, width=width)
    extreme = st.floats(width=width) | st.sampled_from([math.inf, -math.inf, math.nan, float(np.finfo(dtype).max)])
    scores = draw(hnp.arrays(dtype, shape, elements=draw(st.sampled_from([few, usual, few | usual | extreme]))))
    masks = [st.none(), hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape[1])]
    return scores, draw(st.one_of(masks))


def allowed(scores: Any, eligible: Any) -> Any:
    mask = scores > -np.inf
    return mask if eligible is None else mask & eligible
