import torch

from app.ml.engine.lora import attach_adapter, flat_groups, trainable_parameters
from app.ml.engine.packed.factors import stacked
from app.ml.engine.packed.network import find_packed_network
from app.ml.spec import FinetuneSpec
from tests.app.ml.engine.packed.families import make_network

SPEC = FinetuneSpec(lora_rank=4, lora_alpha=8, use_dora=True, use_rslora=True, loraplus_lr_ratio=4.0)


def test_the_factored_norm_is_the_adapted_weights_norm() -> None:
    network = attach_adapter(make_network("gemma"), SPEC)
    with torch.no_grad():
        for parameter in trainable_parameters(network).values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    packed = find_packed_network(network, dropout=0.0)
    assert packed is not None
    packed.refresh()
    for layer in packed._layers:
        for projection in layer.projections:
            for adapter in projection.adapters:
                whole = adapter.weight + adapter.scale * (adapter.factor_b @ adapter.factor_a)
                assert adapter.gain is not None and adapter.magnitude is not None
                torch.testing.assert_close(projection.norm[adapter.columns], whole.norm(dim=1), rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(adapter.gain, adapter.magnitude / whole.norm(dim=1), rtol=1e-5, atol=1e-6)


def test_a_fresh_dora_adapter_of_a_bf16_weight_gains_exactly_one() -> None:
    network = attach_adapter(make_network("gemma").to(torch.bfloat16), SPEC)
    packed = find_packed_network(network, dropout=0.0)
    assert packed is not None
    packed.refresh()
    gains = [a.gain for layer in packed._layers for projection in layer.projections for a in projection.adapters]
    for gain in gains:
        assert gain is not None
        torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-6, atol=1e-6)


def test_flat_parameters_of_one_kind_stack_without_a_copy() -> None:
    network = attach_adapter(make_network("gemma"), SPEC)
    groups = flat_groups(network, SPEC)
    alike = [p for name, p in trainable_parameters(network).items() if "v_proj.lora_B" in name]
    stack = stacked(alike)
    assert stack.shape == (3, *alike[0].shape)
    groups[1].flat.data.fill_(7.0)
    assert (stack == 7).all() and (alike[2] == 7).all()


def test_parameters_that_lie_apart_are_stacked_by_a_copy() -> None:
    apart = [torch.nn.Parameter(torch.full((2, 3), float(index))) for index in range(3)]
    assert torch.equal(stacked(apart), torch.stack([p.data for p in apart]))


def test_gradients_of_flat_parameters_are_views_of_one() -> None:
    network = attach_adapter(make_network("gemma"), SPEC)
    groups = flat_groups(network, SPEC)
    for parameter in trainable_parameters(network).values():
        assert parameter.grad is not None
        parameter.grad.fill_(2.0)
    for group in groups:
        assert group.flat.grad is not None
        assert (group.flat.grad == 2).all()
