"""The weights at every position are those of EQM(k), whatever way led there."""

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from support.elastic_models import digests, digests_by_position, move
from support.ensembles import Shape, random_ensemble


def test_weights_equal_the_offline_assembly_at_every_position(model: ElasticModel, ensemble: Ensemble) -> None:
    expected = digests_by_position(ensemble)
    seen: dict[int, int] = {}

    def compare(position: int) -> None:
        assert digests(model) == expected[position]
        seen[position] = seen.get(position, 0) + 1

    compare(0)
    model.on_published = compare
    move(model, model.max_position)
    move(model, 0)
    assert seen == {0: 2, model.max_position: 1} | dict.fromkeys(range(1, model.max_position), 2)


TRANSITIONS_OF_THREE = [
    [
        ("model.layers.0.mlp.gate_proj", 0, 1),
        ("model.layers.0.mlp.up_proj", 0, 1),
        ("model.layers.1.mlp.up_proj", 0, 1),
    ],
    [("model.layers.0.self_attn.q_proj", 0, 2)],
    [("lm_head", 0, 1), ("model.layers.1.mlp.gate_proj", 0, 1)],
    [("model.layers.0.mlp.gate_proj", 1, 2), ("model.layers.1.mlp.up_proj", 1, 2)],
    [("model.layers.0.mlp.up_proj", 1, 2), ("lm_head", 1, 2), ("model.layers.0.self_attn.k_proj", 0, 1)],
]


@pytest.fixture(scope="module")
def three_levels(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Three levels, transitions of several modules that overlap only in part, jumps, modules that never move."""
    folder = tmp_path_factory.mktemp("elastic") / "three-levels"
    shape = Shape(layers=2, intermediate=192)
    return Ensemble.open(random_ensemble(folder, shape, bits=(8, 5, 2), transitions=TRANSITIONS_OF_THREE))


def test_three_levels_and_transitions_of_several_modules(three_levels: Ensemble) -> None:
    expected = digests_by_position(three_levels)
    model = ElasticModel.load(three_levels, position=2, kv_pages=4)
    assert digests(model) == expected[2]
    for target in (5, 0, 3, 1, 4, 5, 0):
        move(model, target)
        assert digests(model) == expected[target]
    model.close()


def test_footprints_are_those_of_the_manifest(model: ElasticModel, ensemble: Ensemble) -> None:
    assert model.footprints == ensemble.sequence().footprint_bytes
    assert model.max_position == len(model.footprints) - 1
    for position in (0, model.max_position):
        move(model, position)
        assert model.resident_bytes().payload + ensemble.manifest.fixed_bytes == model.footprints[position]
