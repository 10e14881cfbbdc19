"""Programs for a device that is not there: what is read off their text, and the script's tables."""

import json
from pathlib import Path

import jax
import pytest
from helpers import toy
from helpers.toy_run import know_toy

from mpp_jax.describe.planning import picture_flop

PROGRAM = """
HloModule jit_f, is_scheduled=true

%fused_dot (param_0: bf16[40,64], param_1: bf16[64,8]) -> bf16[40,8] {
  %param_0 = bf16[40,64]{1,0} parameter(0)
  %param_1 = bf16[64,8]{1,0} parameter(1)
  %dot.1 = bf16[40,8]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tanh.1 = bf16[40,8]{1,0} tanh(%dot.1)
}

%body (p: (s32[], f32[10])) -> (s32[], f32[10]) {
  %p = (s32[], f32[10]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[10]{0} get-tuple-element(%p), index=1
  %twice = f32[10]{0} fusion(%x), kind=kLoop, calls=%add
  ROOT %next = (s32[], f32[10]{0}) tuple(%i, %twice)
}

%add (q: f32[10]) -> f32[10] {
  %q = f32[10]{0} parameter(0)
  ROOT %sum = f32[10]{0} add(%q, %q)
}

%long (a: f32[10]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  %b = f32[10]{0} fusion(%a), kind=kLoop, calls=%add
  ROOT %c = f32[10]{0} fusion(%b), kind=kLoop, calls=%add
}

%short (d: f32[10]) -> f32[10] {
  %d = f32[10]{0} parameter(0)
  ROOT %e = f32[10]{0} fusion(%d), kind=kLoop, calls=%add
}

ENTRY %main (x: bf16[2,9,9,3], k: bf16[8,3,3,3], w: bf16[64,8], t: (s32[], f32[10])) -> f32[10] {
  %x = bf16[2,9,9,3]{3,2,1,0} parameter(0)
  %k = bf16[8,3,3,3]{3,2,1,0} parameter(1)
  %w = bf16[64,8]{1,0} parameter(2)
  %t = (s32[], f32[10]{0}) parameter(3)
  %conv = (bf16[2,7,7,8]{3,2,1,0}, u8[100]{0}) custom-call(%x, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, operand_precision={highest,highest}, custom_call_target="__cudnn$convForward"
  %y = bf16[2,7,7,8]{3,2,1,0} get-tuple-element(%conv), index=0
  %flat = bf16[40,64]{1,0} bitcast(%y)
  %gemm = bf16[40,8]{1,0} fusion(%flat, %w), kind=kCustom, calls=%fused_dot
  %blas = (bf16[40,8]{1,0}, s8[4096]{0}) custom-call(%flat, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %looped = (s32[], f32[10]{0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %z = f32[10]{0} get-tuple-element(%looped), index=1
  %asked = f32[10]{0} conditional(%z, %z, %z), true_computation=%long, false_computation=%short
  ROOT %open = (s32[], f32[10]{0}) while(%t), condition=%cond, body=%body
}
"""  # noqa: E501


def test_kernels_of_a_program() -> None:
    from hlo_kernels import branches, kernels

    conv, gemm, blas, loop, *longer, last = kernels(PROGRAM)
    assert conv.name == "conv (__cudnn$convForward)"
    assert conv.nbytes == 2 * (2 * 81 * 3 + 8 * 27 + 2 * 49 * 8) + 100
    assert (conv.flop, conv.exact) == (2 * 2 * 49 * 8 * 27, True)
    assert gemm.nbytes == 2 * (40 * 64 + 64 * 8 + 40 * 8)
    assert (gemm.flop, gemm.exact) == (2 * 40 * 64 * 8, False)
    assert (blas.flop, blas.nbytes) == (gemm.flop, gemm.nbytes + 4096)
    assert (loop.name, loop.runs, loop.nbytes) == ("twice", 5, 5 * 80)
    assert [kernel.name for kernel in longer] == ["b", "c"]
    assert (last.name, last.runs) == ("twice", 1)
    assert branches(PROGRAM) == 2  # the branch, and the loop whose end nobody knows


def test_every_scale_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the CPU at hand, which compiles what was traced for a GPU."""
    import device_programs

    know_toy(monkeypatch)
    monkeypatch.setattr(device_programs, "device", lambda _: jax.devices("cpu")[0])
    out = tmp_path / "programs.json"
    words = ["--network=toy", "--scales=2", "--batch=2", "--modes=bfloat16,float32", "--list=1"]
    monkeypatch.setattr("sys.argv", ["device_programs.py", *words, f"--out={out}"])
    usual = jax.default_backend
    device_programs.main()
    assert jax.default_backend is usual
    record = json.loads(out.read_text())
    assert list(record["modes"]) == ["bfloat16", "float32"]
    for rows in record["modes"].values():
        sides = [name for name in rows if name != "all"]
        assert len(sides) == 2
        each = [rows[side] for side in sides]
        for name in ("kernels", "megabytes", "gflop", "ms_of_memory", "ms_at_best"):
            assert rows["all"][name] == pytest.approx(sum(row[name] for row in each))
        for row in each:
            assert row["megabytes"] > 0
            assert row["ms_at_best"] >= row["ms_of_memory"] > 0
            assert row["waits"] == 0  # nothing that a GPU's host would wait for
        for side, row in zip(sides, each, strict=True):
            layer, positions = toy.TOY.layer(), toy.TOY.positions(int(side), None) ** 2
            wanted = picture_flop(toy.TOY, layer.name, int(side))
            # Projection, and twice the product of components with descriptors and their squares.
            wanted += positions * (2 * layer.channels * 128 + 2 * 2 * 256 * 256)
            # The resize from a canvas that is larger, down and across.
            wanted += 2 * int(side) * 512 * 3 * (512 + int(side))
            assert row["gflop"] == pytest.approx(wanted / 1e9, rel=0.02)
        for name in ("gib", "gib_by_the_model"):
            assert rows["all"][name] == max(row[name] for row in each) > 0
    assert "at best" in capsys.readouterr().out


def test_without_a_compiler_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import device_programs

    def missing(*_: object, **__: object) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(device_programs.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit, match=r"^error: JAX cannot compile for a GPU here: .*cuda13"):
        device_programs.device("NVIDIA H100")


def test_descriptions_are_whole() -> None:
    from device_programs import DESCRIPTION, TARGETS

    for kind, target in TARGETS.items():
        text = DESCRIPTION.format(kind=kind, bandwidth=target.bandwidth, memory=target.memory)
        assert text.count("{") == text.count("}")
        assert f'name: "{kind}"' in text
        assert str(target.memory) in text
