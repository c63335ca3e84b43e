import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.agents import make_encoder, register_encoder
from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.nets.encoders import InputEncoder, encoder_name
from mru_rl.agents.nets.images import ImageEncoder, TextEncoder, image_shape, is_picture
from mru_rl.envs.input_rules import InputRules
from mru_rl.envs.native import layout


def bytes_of(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


ROOM = spaces.Dict(
    {
        "image": bytes_of(7, 7, 3),
        "direction": spaces.Discrete(4),
        "mission": spaces.Text(12, charset="abc "),
        "speed": spaces.Box(-np.inf, np.inf, (2,)),
        "cell": spaces.Discrete(60_000),
        "keys": spaces.MultiBinary(3),
    }
)


def inputs(space, n=5, seed=0, **switches):
    """Rules of a space, and the inputs [n, size] of n sampled observations of it."""
    space.seed(seed)
    rules = InputRules(space, spaces.Discrete(2), **switches)
    action, reward = torch.zeros(n, dtype=torch.int64), torch.zeros(n)
    rows = torch.cat([layout(space, space.sample(), batched=False)[0] for _ in range(n)])
    return rules, rules.encode(rows, start=False, action=action, reward=reward)


@pytest.mark.parametrize(
    ("shape", "frames", "channels", "last"),
    [
        ((84, 84), 1, 1, True),
        ((84, 84, 3), 1, 3, True),
        ((3, 84, 84), 1, 3, False),
        ((4, 84, 84), 1, 4, False),
        ((84, 84, 4), 1, 4, True),
        ((16, 84, 84), 1, 16, False),
        ((3, 5, 3), 1, 3, True),
        ((8, 8, 20), 1, 20, True),
        ((20, 8, 8), 1, 20, False),
        ((4, 84, 84, 3), 4, 3, True),
        ((4, 1, 84, 84), 4, 1, False),
    ],
)
def test_the_layout_of_an_image_is_read_off_its_shape(shape, frames, channels, last):
    found = image_shape(bytes_of(*shape))
    assert (found.frames, found.channels, found.channels_last) == (frames, channels, last)
    image = torch.arange(2 * np.prod(shape)).reshape(2, *shape)
    assert found.to_channels_first(image).shape == (2, frames * channels, found.height, found.width)


def test_channels_first_and_last_are_the_same_picture():
    picture = torch.randint(256, (2, 8, 9, 3), generator=torch.Generator().manual_seed(0))
    last, first = image_shape(bytes_of(8, 9, 3)), image_shape(bytes_of(3, 8, 9))
    assert torch.equal(last.to_channels_first(picture), first.to_channels_first(picture.movedim(-1, 1)))


def test_a_layout_that_cannot_be_told_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"image of shape \[8, 8, 8\] is ambiguous: .*; give it as") as stop:
        image_shape(bytes_of(8, 8, 8))
    assert "\n" not in str(stop.value)


def test_pictures_are_bytes_or_floats_between_zero_and_one():
    assert is_picture(bytes_of(7, 7, 3))
    assert is_picture(bytes_of(4, 84, 84, 3))
    assert is_picture(spaces.Box(0, 1, (3, 24, 24)))
    assert not is_picture(spaces.Box(0, 1, (3, 4, 5)))
    assert not is_picture(spaces.Box(-1, 1, (3, 24, 24)))
    assert not is_picture(bytes_of(128))


@pytest.mark.parametrize(
    ("shape", "kind", "picked"),
    [
        ((7, 7, 3), "auto", "codes"),
        ((24, 24, 3), "auto", "small"),
        ((84, 84, 4), "auto", "nature"),
        ((36, 40), "nature", "nature"),
        ((3, 24, 24), "impala", "impala"),
        ((7, 7, 3), "small", "small"),
    ],
)
def test_the_net_for_images_follows_their_size_unless_one_is_asked_for(shape, kind, picked):
    encoder = ImageEncoder(bytes_of(*shape), kind)
    assert encoder.kind == picked
    image = torch.randint(256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder(image)
    assert features.shape == (2, encoder.out_size)
    assert not torch.equal(features[0], features[1])
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_bytes_and_floats_of_one_picture_give_the_same_features():
    torch.manual_seed(0)
    byte = ImageEncoder(bytes_of(3, 24, 24))
    float_ = ImageEncoder(spaces.Box(0, 1, (3, 24, 24)))
    float_.load_state_dict(byte.state_dict())
    image = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    torch.testing.assert_close(byte(image), float_(image.float() / 255))


def test_a_picture_too_small_for_a_net_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"nature encoder needs pictures of at least 36 x 36, got 24 x 24; take auto"):
        ImageEncoder(bytes_of(24, 24, 3), "nature")


def test_a_text_is_encoded_alike_alone_among_others_and_with_more_room_behind_it():
    torch.manual_seed(0)
    encoder = TextEncoder(spaces.Text(20, charset="abc"))
    codes = torch.tensor([[1, 2, 3, 1, 0, 0, 0], [2, 2, 0, 0, 0, 0, 0], [1, 2, 3, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])
    together = encoder(codes)
    for row, features in zip(codes, together, strict=True):
        torch.testing.assert_close(encoder(torch.cat((row, torch.zeros(9, dtype=row.dtype)))[None])[0], features)
        torch.testing.assert_close(encoder._encode(row[None])[0], features)
    assert not torch.equal(together[0], together[1])
    assert (together[3] == 0).all()


def test_codes_of_cells_are_told_apart_by_value_and_by_channel():
    encoder = ImageEncoder(bytes_of(3, 3, 2))
    empty = torch.zeros(1, 3, 3, 2, dtype=torch.uint8)
    a, b = empty.clone(), empty.clone()
    a[..., 1, 1, 0], b[..., 1, 1, 1] = 5, 5
    found = encoder(torch.cat([empty, a, b]))
    assert len({tuple(row.tolist()) for row in found}) == 3


def test_every_part_of_an_observation_reaches_the_features():
    rules, x = inputs(ROOM, previous_action=True, start_flag=True, previous_reward=True)
    encoder = InputEncoder(rules)
    x = x[:1].repeat(2, 1)
    base = encoder(x)
    assert base.shape == (2, encoder.out_size)
    floats, rest = rules.split(x)
    for part in rules.parts:
        changed = (floats.clone(), rest.clone())
        column = changed[part.kind == "bytes"][1, part.start : part.stop]
        column.copy_(column.flip(0) if part.kind == "one-hot" else (column + 1) % 3)
        assert not torch.equal(encoder.features(*changed)[0], encoder.features(*changed)[1]), part.place


def test_sequences_and_single_steps_give_the_same_features():
    rules, x = inputs(ROOM, n=6)
    encoder = InputEncoder(rules)
    torch.testing.assert_close(encoder(x.reshape(2, 3, -1)).flatten(0, 1), encoder(x))


def test_the_rows_of_an_agent_and_the_tensors_of_a_space_give_the_same_features():
    _, x = inputs(ROOM, n=1)
    whole = make_encoder(ROOM)
    ROOM.seed(0)
    sample = ROOM.sample()
    codes = layout(spaces.Dict({"mission": ROOM["mission"]}), {"mission": sample["mission"]}, batched=False)[0]
    obs = {name: torch.as_tensor(np.asarray(value)) for name, value in sample.items() if name != "mission"}
    obs["mission"] = codes[0]
    batch = {name: value.unsqueeze(0).expand(4, *value.shape) for name, value in obs.items()}
    features = whole(batch)
    assert features.shape == (4, whole.out_size)
    torch.testing.assert_close(features[0], whole.encoder(x)[0])


def test_a_number_of_many_values_is_embedded_and_its_size_stays_small():
    rules, x = inputs(spaces.Discrete(60_000))
    encoder = InputEncoder(rules)
    assert rules.size == 1
    assert encoder(x).shape == (5, 32)
    with pytest.raises(ValueError, match=r"at most 16,777,216 values, Discrete\(1099511627776\) has"):
        InputRules(spaces.Discrete(2**40), spaces.Discrete(2))


@register_encoder("corner")
class Corner(torch.nn.Module):
    """The first pixel and the direction, as numbers."""

    def __init__(self, space):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, obs):
        assert obs["image"].dtype == torch.uint8
        assert obs["image"].shape[1:] == (7, 7, 3)
        assert obs["mission"].shape[1:] == (12,)
        return self.scale * torch.stack((obs["image"][:, 0, 0, 0].float(), obs["direction"].float()), dim=1)


def test_an_encoder_of_ones_own_takes_the_observation_as_its_space_has_it():
    rules, x = inputs(ROOM, start_flag=True)
    encoder = InputEncoder(rules, "corner")
    ROOM.seed(0)
    samples = [ROOM.sample() for _ in range(5)]
    want = [[0.0, 0.0, float(s["image"][0, 0, 0]), float(s["direction"])] for s in samples]
    assert encoder(x)[:, 2:].tolist() == [row[2:] for row in want]
    assert encoder.out_size == 4


def test_encoders_of_ones_own_go_by_a_name_that_finds_them_again():
    assert encoder_name(Corner) == "corner"
    assert encoder_name(gymnasium.Env) == "gymnasium.core:Env"
    for wrong in (Corner(None), lambda space: None):
        with pytest.raises(OptionError, match="a class or function at the top of a module"):
            encoder_name(wrong)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("natur", "there is no encoder 'natur'; there are auto, nature, impala"),
        ("no_such_module:Net", "no module 'no_such_module' to encode observations"),
        ("math:pi", "is no class or function there"),
        ("builtins:str", "must make an nn.Module from an observation space, got str"),
    ],
)
def test_an_encoder_that_there_is_not_is_refused_in_one_line(kind, words):
    rules, _ = inputs(bytes_of(7, 7, 3))
    with pytest.raises(ValueError, match=words) as stop:
        InputEncoder(rules, kind)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (84, 84, 3), np.float32),
        spaces.Box(0, 1, (84, 84, 6)),
        spaces.Box(0, 255, (30, 30), np.int32),
    ],
)
def test_what_looks_like_an_image_and_is_taken_as_numbers_is_said(space):
    (line,) = InputEncoder(InputRules(space, spaces.Discrete(2))).describe()
    assert "numbers; an image is uint8, or floats in [0, 1]" in line
    assert "\n" not in line


def test_bounds_that_a_curriculum_comes_to_count_as_well():
    rules = InputRules(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    later = InputRules(spaces.Box(-1000, 1000, (2,)), spaces.Discrete(2))
    encoder = InputEncoder(rules)
    x = torch.full((1, 2), 0.5)
    assert not encoder.unusual(x).any()
    assert encoder.unusual(x, later.parts).all()


def test_agents_do_not_share_an_encoder_that_a_factory_gives_twice():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3))
    register_encoder("one-for-all", lambda space: net)
    rules, _ = inputs(spaces.Box(-1, 1, (2,)))
    first, second = InputEncoder(rules, "one-for-all"), InputEncoder(rules, "one-for-all")
    assert first.own[1].weight is not second.own[1].weight


def test_columns_to_normalize_are_those_unbounded_or_of_unusual_size():
    space = spaces.Dict(
        {
            "a": spaces.Box(-1, 1, (2,)),
            "b": spaces.Box(-np.inf, np.inf, (1,)),
            "c": spaces.Box(0, 0.01, (1,)),
            "d": spaces.Discrete(3),
            "ram": bytes_of(2),
        }
    )
    rules, x = inputs(space)
    encoder = InputEncoder(rules)
    found = dict(zip("aabcdddrr", encoder.unusual(x).tolist(), strict=True))
    assert found == {"a": False, "b": True, "c": True, "d": False, "r": True}
    lying = x.clone()
    floats, rest = rules.split(lying)
    floats[:, :2] *= 255
    from mru_rl.envs.encoding import pack

    assert encoder.unusual(pack(floats, rest))[:2].all()


MASKED = spaces.Dict({"observation": spaces.Box(-1, 1, (2,)), "action_mask": spaces.Box(0, 1, (3,), np.int8)})


def test_a_mask_says_which_actions_there_are_and_is_never_normalized():
    rules = InputRules(MASKED, spaces.Discrete(3))
    encoder = InputEncoder(rules)
    rows = torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.5, 0.5]])
    x = rules.encode(rows, start=True)
    assert encoder.masks
    assert encoder.allowed(x).tolist() == [[True, False, True], [False, False, False]]
    assert not encoder.all_numbers()[:3].any()


def test_one_observation_without_leading_dimensions_is_encoded_alone():
    encoder, image = make_encoder(bytes_of(9, 9, 3)), torch.zeros(9, 9, 3, dtype=torch.uint8)
    assert torch.equal(encoder(image), encoder(image[None])[0])


def test_floats_where_a_space_holds_bytes_are_refused_not_rounded():
    with pytest.raises(ValueError, match=r"uint8\) holds bytes, got float32; give whole numbers from 0 to 255"):
        make_encoder(bytes_of(9, 9, 3))(torch.rand(4, 9, 9, 3))


def test_an_encoder_that_cannot_encode_the_space_is_one_line():
    register_encoder("lines", lambda space: torch.nn.Linear(3, 4))
    with pytest.raises(
        ValueError, match=r"encoder lines cannot encode Box.*it raises RuntimeError: mat1 and mat2"
    ) as stop:
        make_encoder(spaces.Box(-1, 1, (2,)), "lines")
    assert "\n" not in str(stop.value)


def test_a_net_for_images_is_refused_where_there_is_none():
    with pytest.raises(
        OptionError, match=r"encoder impala is a net for images, and the observation holds none, Box.*; leave it out"
    ):
        make_encoder(spaces.Box(-1, 1, (2,)), "impala")
