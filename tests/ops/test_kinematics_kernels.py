"""The compiled kernels of kinematics: their twin in torch, NumPy's sine and cosine, the same bits on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_kinematics import ARMS, within

from robocache import KinematicChain
from robocache.ops import _kinematics, _library
from robocache.ops.kinematics import _formed
from robocache.ops.reference import kinematics as reference

pytestmark = pytest.mark.skipif(
    not _library.has_kernel("forward_kinematics", torch.device("cpu")), reason="the compiled extension is not loaded"
)
DTYPES = [(torch.float64, 1e-14), (torch.float32, 4e-6)]
ONE = """<robot name="one"><link name="a"/><link name="b"/>
<joint name="j" type="continuous"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/></joint></robot>"""

SLIDING = """<robot name="arm"><link name="a"/><link name="b"/><link name="c"/><link name="d"/><link name="side"/>
<joint name="turns" type="continuous"><parent link="a"/><child link="b"/><origin xyz="0.1 0 0.3" rpy="0.2 0 1"/>
<axis xyz="0 1 0"/></joint>
<joint name="slides" type="prismatic"><parent link="b"/><child link="c"/><origin xyz="0 0.2 0" rpy="1 0.5 0"/>
<axis xyz="1 0 1"/><limit lower="-0.5" upper="0.7" effort="1" velocity="1"/></joint>
<joint name="bends" type="revolute"><parent link="c"/><child link="d"/><origin xyz="0.3 0 0" rpy="0 0 0.4"/>
<axis xyz="0 0 -1"/><limit lower="-2" upper="2" effort="1" velocity="1"/></joint></robot>"""


def chains() -> list[KinematicChain]:
    return [
        KinematicChain.from_urdf(ARMS, "base", "l_tool"),
        KinematicChain.from_urdf(ARMS, "r_finger_a", ["l_tool", "base", "r_finger_c", "r_finger_a"]),
    ]


@pytest.mark.parametrize(("dtype", "near"), DTYPES)
def test_the_twin(dtype, near):
    for chain in chains():
        q = torch.from_numpy(within(chain, 500)).to(dtype)
        q[7, 0], q[9, -1] = torch.nan, torch.inf
        every = list(range(len(chain.links)))
        frames = reference.forward(q, chain.flat, every)
        for form in ("pose", "rot6d", "matrix"):
            torch.testing.assert_close(
                chain.forward(q, form, links="all"), _formed(frames, form), atol=near, rtol=0, equal_nan=True
            )
        wanted = reference.jacobian(q, chain.flat, list(chain.tips))
        found = chain.jacobian(q).reshape(wanted.shape)
        torch.testing.assert_close(found, wanted, atol=near, rtol=0, equal_nan=True)
        # Strided rows, and each row by itself, to the bit.
        wide = torch.stack([q, q], -1)[..., 0]
        alone = torch.cat([chain.forward(row[None]) for row in q[:5]])
        assert torch.equal(chain.forward(wide)[:5], alone)


@pytest.mark.parametrize(("dtype", "ulp"), [(np.float64, 2.3e-16), (np.float32, 1.2e-7)])
def test_sine_and_cosine(dtype, ulp):
    chain = KinematicChain.from_urdf(ONE, None, "b")
    turns = np.concatenate([np.linspace(-10, 10, 20001), np.arange(-64, 65) * np.pi / 4, np.linspace(-1e5, 1e5, 9999)])
    angle = turns.astype(dtype)
    m = chain.forward(angle[:, None], "matrix")
    exact = angle.astype(np.longdouble)
    assert np.abs(m[:, 1, 0] - np.sin(exact)).max() < ulp
    assert np.abs(m[:, 0, 0] - np.cos(exact)).max() < ulp
    assert (chain.forward(np.zeros((1, 1), dtype), "matrix") == np.eye(4)).all()


def test_the_operators_are_whole():
    chain = chains()[1]
    q = torch.from_numpy(within(chain, 3))
    structure, numbers = _kinematics.arguments(chain.flat, list(chain.tips))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.robocache.forward_kinematics, (q, structure, numbers, 1), test_utils=checks)
    torch.library.opcheck(torch.ops.robocache.geometric_jacobian, (q, structure, numbers, True), test_utils=checks)
    with pytest.raises(ValueError, match=r"forward_kinematics: q must be \[N, 7\], got \[3, 2\]"):
        torch.ops.robocache.forward_kinematics(q[:, :2], structure, numbers, 1)
    with pytest.raises(ValueError, match="numbers 1 numbers for"):
        torch.ops.robocache.forward_kinematics(q, structure, numbers[:1], 1)
    with pytest.raises(ValueError, match="has the parent 5"):
        torch.ops.robocache.forward_kinematics(q, [*structure[:3], 5, *structure[4:]], numbers, 1)


def test_they_compile_into_one_graph():
    chain = chains()[1]
    q = torch.from_numpy(within(chain, 3))
    for call in (chain.forward, chain.jacobian, lambda q: chain.forward(q, "matrix")):
        assert torch.equal(torch.compile(call, fullgraph=True, backend="eager")(q), call(q))


@pytest.mark.gpu
@pytest.mark.skipif(
    not _library.has_kernel("forward_kinematics", torch.device("cuda")) or not torch.cuda.is_available(),
    reason="no CUDA device, or an extension without CUDA",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_same_bits_on_a_gpu(dtype):
    for chain in chains():
        q = torch.from_numpy(within(chain, 100_000)).to(dtype)
        q[1] *= 1e4
        q[7, 0] = torch.nan
        for links in (None, "all"):
            for form in ("pose", "rot6d", "matrix"):
                on_card = chain.forward(q.cuda(), form, links=links).cpu()
                assert torch.equal(on_card.nan_to_num(7), chain.forward(q, form, links=links).nan_to_num(7))
        for frame in ("world", "body"):
            on_card = chain.jacobian(q.cuda(), frame).cpu()
            assert torch.equal(on_card.nan_to_num(7), chain.jacobian(q, frame).nan_to_num(7))
        assert torch.equal(chain.forward(q[:0].cuda()).cpu(), chain.forward(q[:0]))
    # An arm goes through shared memory: counts about a warp's tile, rows that begin at no 16 bytes, joints that slide.
    arm = KinematicChain.from_urdf(SLIDING, "a", "d")
    for chain in (chains()[0], arm):
        q = torch.from_numpy(within(chain, 300)).to(dtype)
        for first, count in ((0, 1), (0, 31), (1, 32), (0, 33), (1, 64), (3, 65), (0, 128), (2, 257)):
            some, on_card = q[first : first + count], q.cuda()[first : first + count]
            for form in ("pose", "rot6d", "matrix"):
                assert torch.equal(chain.forward(on_card, form).cpu(), chain.forward(some, form))
            for frame in ("world", "body"):
                assert torch.equal(chain.jacobian(on_card, frame).cpu(), chain.jacobian(some, frame))
