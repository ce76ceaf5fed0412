"""A learned vector for a concept in every block, at the right places."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from library.config.dataset import Concept
from library.config.groups import groups
from library.data.texts import TextLibrary, TriggerLayout
from library.files.cache import Cache
from library.flow import LEVELS_OVER_ALL
from library.hierarchical_embedding_injector import (
    ConceptEmbeddings,
    ConceptToken,
    HierarchicalEmbeddingInjector,
    placements_of,
)
from library.models.opening import load_model
from library.per_pass import recompute_contexts
from tests.helpers.tiny import BLOCKS, LENGTH, WIDTH, inputs, tiny_transformer, velocity

CPU = torch.device("cpu")


def embeddings(blocks: int = BLOCKS, tokens: int = 2, **kind) -> ConceptEmbeddings:
    generator = torch.Generator().manual_seed(5)
    return ConceptEmbeddings(torch.randn(blocks, tokens, WIDTH, generator=generator), BLOCKS, **kind)


def tokens_at(*positions: int) -> list[ConceptToken]:
    return [ConceptToken(position, "dog", vector) for vector, position in enumerate(positions)]


def test_each_block_gets_its_own_vectors_and_nothing_else_changes():
    transformer = tiny_transformer()
    injector, dog = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks)), embeddings()
    inside = []
    for block in transformer.transformer_blocks:  # these hooks run after the injector's
        block.register_forward_pre_hook(
            lambda module, args, kwargs: inside.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        )
    with (
        injector.watching() as before,
        injector.injecting(placements_of([tokens_at(1, 4), []], [{"dog": dog}] * 2, CPU)),
    ):
        velocity(transformer)
    for block in range(BLOCKS):
        assert torch.equal(inside[block][0, [1, 4]], dog.vectors()[block])
        assert torch.equal(inside[block][0, [0, 2, 3, 5]], before[block][0, [0, 2, 3, 5]])
        assert torch.equal(inside[block][1], before[block][1])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_vectors_learn_with_and_without_checkpointing(checkpointing):
    def gradient(checkpointing: bool) -> torch.Tensor:
        transformer, dog = tiny_transformer().requires_grad_(False), embeddings()
        injector = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks))
        if checkpointing:
            transformer.enable_gradient_checkpointing(
                lambda block, *args: checkpoint(
                    block, *args, use_reentrant=False, context_fn=recompute_contexts([injector.placements])
                )
            )
        with injector.injecting(placements_of([tokens_at(1, 4), tokens_at(2, 3)], [{"dog": dog}] * 2, CPU)):
            out = velocity(transformer)
        with torch.no_grad():
            velocity(transformer)  # a pass without vectors in between
        out.square().sum().backward()
        return dog.moved.grad

    found = gradient(checkpointing)
    assert (found.abs().amax(dim=(1, 2)) > 0).all(), "every block's vectors learn"
    torch.testing.assert_close(found, gradient(False))


def compared(transformer, injector: HierarchicalEmbeddingInjector, dog: ConceptEmbeddings, *rows) -> torch.Tensor:
    """How far the states of each row are from the vectors, (blocks, B)."""
    placements = placements_of(rows, [{"dog": dog}] * len(rows), CPU, replaces=False)
    with injector.injecting(placements), injector.comparing() as distances:
        velocity(transformer)
    return torch.stack(distances)


def test_states_are_compared_with_vectors_and_not_replaced():
    transformer = tiny_transformer()
    injector, dog = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks)), embeddings()
    plain = velocity(transformer)
    with injector.watching() as read:
        distances = compared(transformer, injector, dog, tokens_at(1, 4), [])
    assert torch.equal(velocity(transformer), plain)
    assert distances.shape == (BLOCKS - 1, 2), "no layer of the blocks makes what the first one reads"
    assert not distances[:, 1].any()
    for block in range(1, BLOCKS):
        apart = (read[block][0, [1, 4]] - dog.vectors()[block]) / dog.size[block]
        torch.testing.assert_close(distances[block - 1, 0], apart.square().mean())
    alike = ConceptEmbeddings(torch.stack([states[0, [1, 4]] for states in read]), BLOCKS)
    assert not compared(transformer, injector, alike, tokens_at(1, 4), tokens_at()).any()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_learn_from_the_distance_with_and_without_checkpointing(checkpointing):
    def gradient(checkpointing: bool) -> torch.Tensor:
        transformer, dog = tiny_transformer(), embeddings()
        injector = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks))
        if checkpointing:
            transformer.enable_gradient_checkpointing(
                lambda block, *args: checkpoint(
                    block, *args, use_reentrant=False, context_fn=recompute_contexts([injector.placements])
                )
            )
        distances = compared(transformer, injector, dog, tokens_at(1, 4), tokens_at(2, 3))
        with torch.no_grad():
            velocity(transformer)  # a pass that compares nothing in between
        distances.sum().backward()
        assert dog.moved.grad is None, "the vectors teach, and learn nothing here"
        return transformer.transformer_blocks[0].attn.add_k_proj.weight.grad

    found = gradient(checkpointing)
    assert found.abs().sum() > 0
    torch.testing.assert_close(found, gradient(False))


def test_rows_of_a_batch_do_not_touch_each_other():
    """As in classifier-free guidance: the empty prompt's row does not change."""
    transformer = tiny_transformer()
    injector, dog = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks)), embeddings()
    plain = velocity(transformer)
    with injector.injecting(placements_of([[], tokens_at(1, 4)], [{}, {"dog": dog}], CPU)):
        batch = velocity(transformer)
    torch.testing.assert_close(batch[0], plain[0])
    assert (batch[1] - plain[1]).abs().max() > 1e-2
    alone = {name: value[1:] for name, value in inputs().items()}
    with injector.injecting(placements_of([tokens_at(1, 4)], [{"dog": dog}], CPU)):
        torch.testing.assert_close(velocity(transformer, **alone), batch[1:], rtol=1e-4, atol=1e-5)


def test_a_learning_rate_is_a_share_of_what_is_replaced():
    """States grow from block to block; one step of Adam moves every vector by the same share of its size."""
    start = torch.randn(BLOCKS, 2, WIDTH) * torch.tensor([1.0, 30.0, 900.0])[:BLOCKS, None, None]
    dog = ConceptEmbeddings(start, BLOCKS)
    assert torch.equal(dog.vectors(), start), "nothing has changed at the begin"
    optimizer = torch.optim.Adam([dog.moved], lr=0.02)
    (dog.vectors() * torch.randn_like(start)).sum().backward()
    optimizer.step()
    size = start.square().mean(2).sqrt()
    torch.testing.assert_close((dog.vectors() - start).square().mean(2).sqrt() / size, torch.full_like(size, 0.02))
    assert not ConceptEmbeddings(torch.zeros(1, 1, 4), BLOCKS).vectors().isnan().any()


def test_shared_and_first_block_vectors():
    shared, first = embeddings(blocks=1), embeddings(blocks=1, every_block=False)
    assert all(torch.equal(shared.at(block), shared.vectors()[0]) for block in range(BLOCKS))
    assert torch.equal(first.at(0), first.vectors()[0]) and first.at(1) is None
    assert shared.per_block().shape == (BLOCKS, 2, WIDTH) and first.per_block().shape == (1, 2, WIDTH)


def test_without_embeddings_a_concepts_tokens_keep_their_states():
    transformer = tiny_transformer()
    injector = HierarchicalEmbeddingInjector(list(transformer.transformer_blocks))
    assert placements_of([tokens_at(1), []], [{}, {}], CPU) == ()
    with injector.injecting(()):
        assert torch.equal(velocity(transformer), velocity(tiny_transformer()))


@pytest.fixture
def model(tiny_model):
    settings = {"t5xxl_max_token_length": LENGTH, "mixed_precision": "no", "device": "cpu"}
    return load_model(groups()["model"](pretrained_model_name_or_path=str(tiny_model), **settings))


def places(model, text: str, trigger: str = "sks", every_stream: bool = True) -> list[tuple[int, int]]:
    layout = TriggerLayout(Concept(name="dog", trigger=trigger, class_word="dog"), model, every_stream)
    return [(token.position, token.vector) for token in layout.find(text, model)]


def test_places_of_a_trigger_of_one_token(model):
    assert places(model, "a sks dog city") == [(2, 0), (LENGTH + 1, 1)]
    assert places(model, "a sks dog city", every_stream=False) == [(2, 0)]


def test_places_of_a_trigger_of_several_tokens(model):
    clip, t5 = model.tokenizers[0], model.tokenizers[2]
    clip_ids, t5_ids = clip("foobar")["input_ids"][1:-1], t5("foobar")["input_ids"][:-1]
    assert len(clip_ids) == 4 and len(t5_ids) == 7
    found = places(model, "a foobar dog", trigger="foobar")
    clip_places = [(2 + index, index) for index in range(4)]
    t5_places = [(LENGTH + 1 + index, 4 + index) for index in range(7)]
    assert found == clip_places + t5_places


def test_a_trigger_that_stands_twice_gets_its_vectors_twice(model):
    assert places(model, "sks dog, sks dog") == [(1, 0), (LENGTH, 1), (4, 0), (LENGTH + 3, 1)]


def test_a_trigger_that_is_absent_or_cut_off_gets_none(model):
    assert places(model, "a dog city") == []
    assert places(model, "a dog a dog a dog a dog a dog a sks dog") == []
    cut = places(model, "a big blue cat city day flat a sks dog")  # CLIP reads 8 words, T5 9
    assert cut == [(LENGTH + 8, 1)]


def test_the_class_word_gives_the_first_states(plan_of):
    from library.prepare.class_states import class_states

    plan = plan_of()
    plan.parts.texts.prepare(plan.texts())
    parts = plan.parts.attach()
    concept = plan.config.concepts[0]
    states = class_states(parts, concept, torch.randn(2, 4, 8, 8))
    assert states.shape == (BLOCKS, 2, WIDTH)
    embedder = plan.parts.model.transformer.context_embedder
    clip, t5 = plan.parts.model.token_positions("dog", (0, 3))
    at_first_block = embedder(plan.parts.texts["dog"].states.context)
    torch.testing.assert_close(states[0, 0], at_first_block[clip[0]])
    torch.testing.assert_close(states[0, 1], at_first_block[t5[0]])


def test_the_class_words_states_are_found_once_for_all_that_they_depend_on(plan_of, monkeypatch):
    from library.prepare.class_states import class_states

    looked, watching = [], HierarchicalEmbeddingInjector.watching
    monkeypatch.setattr(HierarchicalEmbeddingInjector, "watching", lambda one: looked.append(one) or watching(one))

    def states(latents, **settings):
        plan = plan_of(**settings)
        plan.parts.texts.prepare(plan.texts())
        return class_states(plan.parts.attach(), plan.config.concepts[0], latents)

    latents = torch.randn(2, 4, 8, 8)
    first = states(latents)
    assert len(looked) == len(LEVELS_OVER_ALL)
    assert torch.equal(states(latents), first)
    shared = states(latents, concept_embeddings="shared", student_embeddings="shared")
    assert torch.equal(shared, first.mean(0, keepdim=True)) and len(looked) == len(LEVELS_OVER_ALL)
    states(latents + 1)
    states(latents, seed=3)
    states(latents, mixed_precision="bf16")
    states(latents, embedding_positions="clip")
    assert len(looked) == 5 * len(LEVELS_OVER_ALL)


def test_a_library_encodes_each_text_once(model, tmp_path):
    layouts = [TriggerLayout(Concept(name="dog", trigger="sks", class_word="dog"), model)]
    texts = ["a sks dog", "a dog", ""]
    TextLibrary(model, Cache(tmp_path), layouts).prepare(texts)
    model.encode_text = None  # encoding again fails
    again = TextLibrary(model, Cache(tmp_path), layouts)
    again.prepare(texts)
    assert [token.vector for token in again["a sks dog"].tokens] == [0, 1]
    assert again[""].tokens == ()
