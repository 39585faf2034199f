"""Claims about choosing rates. Each function is called on every rank of a job, in this order."""

import copy
import gc
import json
import pathlib
import pickle
import tempfile

import pytest
import torch
from torch import nn

import scalecom.torch as hvd


class _Block(nn.Module):
    """Two 3x3 convolutions and a way around them."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.around = (nn.Conv2d(before, after, 1, stride, bias=False) if before != after
                       else nn.Identity())

    def forward(self, images):
        return torch.relu(self.second(torch.relu(self.norm(self.first(images)))) +
                          self.around(images))


def _resnet34():
    """For images of 32 x 32, as the paper trains it on CIFAR-10."""
    blocks = [_Block(before if place == 0 else after, after, stride if place == 0 else 1)
              for before, after, stride, count in ((64, 64, 1, 3), (64, 128, 2, 4), (128, 256, 2, 6),
                                                   (256, 512, 2, 3))
              for place in range(count)]
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), *blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(512, 10))


class _Words(nn.Module):
    """An embedding before anything else, attention that calls functions, dropout."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(500, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = nn.LayerNorm(64)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(64, 500)

    def forward(self, places):
        words = self.words(places)
        return self.out(self.drop(self.norm(self.attention(words, words, words)[0])))


def flops_are_those_of_the_forward_pass_for_one_of_32_samples():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 10))
    figures = hvd.flops_per_gradient(model, torch.randn(32, 3, 8, 8))
    # A weight is multiplied and added at each place of an image, 64 here, or once a sample.
    assert figures == {"0.weight": 128.0, "0.bias": figures["0.bias"], "2.weight": 2.0,
                       "2.bias": figures["2.bias"]}
    twice = hvd.flops_per_gradient(model, torch.randn(64, 3, 8, 8))
    assert twice["0.weight"] == 256.0 and twice["2.weight"] == 4.0


def the_papers_resnet34_gets_about_the_papers_rate():
    model = _resnet34().to("meta")
    rates = hvd.flops_rates(model, torch.empty(32, 3, 32, 32, device="meta"))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # 1.0 M elements in stages of 32 x 32 and 16 x 16, 6.8 M of 8 x 8, 13.1 M of 4 x 4.
    assert rates["0.weight"] is None and rates["1.norm.weight"] is None
    assert (rates["1.first.weight"], rates["5.second.weight"], rates["9.second.weight"],
            rates["15.second.weight"]) == (25, 25, 50, 400)
    assert rates[f"{len(model) - 1}.weight"] == 400
    compressed = {name: rate for name, rate in rates.items() if rate is not None}
    whole = sum(sizes[name] for name in compressed)
    sent = sum(sizes[name] / rate for name, rate in compressed.items())
    assert 85 < whole / sent < 105  # The paper reports 92.


def embeddings_and_attention_are_compressed_by_their_flops():
    model = _Words()
    rates = hvd.flops_rates(model, torch.randint(500, (32, 70)))
    assert rates == {"words.weight": 400, "attention.in_proj_weight": 50,
                     "attention.in_proj_bias": None, "attention.out_proj.weight": 50,
                     "attention.out_proj.bias": None, "norm.weight": None, "norm.bias": None,
                     "out.weight": 50, "out.bias": None}


class _TiedWords(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(500, 64), nn.Embedding(70, 64)
        self.wide = nn.Linear(64, 64)

    def forward(self, places):
        return self.wide(self.words(places) + self.places.weight) @ self.words.weight.t()


def an_embedding_is_no_first_layer_even_if_it_multiplies_at_the_end():
    rates = hvd.flops_rates(_TiedWords(), torch.randint(500, (32, 70)))
    assert rates == {"words.weight": 50, "places.weight": 400, "wide.weight": 50,
                     "wide.bias": None}


def a_recurrent_layers_inputs_meet_its_first_matrix():
    for device in ("cpu", "meta"):
        layer, batch = nn.LSTM(32, 64, 2, device=device), torch.zeros(70, 32, 32, device=device)
        figures = hvd.flops_per_gradient(layer, batch)
        # A matrix is multiplied once for each of 70 frames of 32 samples.
        assert {figures[f"weight_{kind}_l{place}"] for kind in ("ih", "hh") for place in (0, 1)} \
            == {140.0}
        rates = hvd.flops_rates(layer, batch)
        assert [name for name, rate in rates.items() if rate is None and "weight" in name] \
            == ["weight_ih_l0"]
        assert rates["weight_hh_l0"] == rates["weight_ih_l1"] == 50


def inputs_may_come_in_a_dict():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.other, self.first = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, inputs):
            constant = self.other(torch.ones(1, 64))
            return self.first(inputs["images"]) + constant

    rates = hvd.flops_rates(Named(), {"images": torch.randn(32, 64)})
    assert (rates["first.weight"], rates["other.weight"]) == (None, 400)


def autocast_computes_with_copies_and_counts_the_same():
    model, images = nn.Sequential(nn.Conv2d(3, 48, 5), nn.Conv2d(48, 48, 5)), torch.randn(2, 3, 16, 16)
    wide = hvd.flops_per_gradient(model, images)
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        assert hvd.flops_per_gradient(model, images) == wide


def measuring_leaves_the_model_as_it_is():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48), nn.Dropout(), nn.Flatten(),
                          nn.Linear(48 * 36, 3))
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    model[4].eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 8, 8, generator=generator, device="cpu")
    hvd.flops_rates(model, images.to(torch.get_default_device()))
    assert model.training and not model[4].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(parameter.grad, gradient)
               for parameter, gradient in zip(model.parameters(), gradients))
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(RuntimeError):  # A batch that does not fit.
        hvd.flops_rates(model, torch.randn(4, 5, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def rates_grow_milder_with_the_budget():
    layers = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 10, bias=False), nn.Linear(10, 10))
    dense = 2 * 3 / 4 * 4 * (200 * 300 + 300 + 300 * 10 + 10 * 10 + 10)
    named = list(layers.named_parameters())
    assert set(hvd.budget_rates(named, dense, size=4).values()) == {None}
    assert set(hvd.budget_rates(named, 0, size=1).values()) == {None}
    former = 1
    for bytes_per_step in (dense - 1, dense / 10, dense / 50):
        rates = hvd.budget_rates(named, bytes_per_step, size=4)
        assert list(rates) == [name for name, _ in named]
        assert rates["0.bias"] is None and rates["2.weight"] is None
        assert rates["0.weight"] == rates["1.weight"] > former
        former = rates["0.weight"]
    shorter = hvd.budget_rates(named, dense / 10, size=4, values="float16")
    assert shorter["0.weight"] < hvd.budget_rates(named, dense / 10, size=4)["0.weight"]


def an_impossible_budget_says_what_is_possible():
    layer = nn.Linear(100, 100)
    with pytest.raises(ValueError, match="bytes_per_step is 10; a rank sends .* bytes at least"):
        hvd.budget_rates(layer.named_parameters(), 10, size=4)
    for wrong in (-1, float("nan"), "much", None):
        with pytest.raises(ValueError, match="bytes_per_step is .*0 or more"):
            hvd.budget_rates(layer.named_parameters(), wrong, size=4)
    with pytest.raises(ValueError, match="size is 0"):
        hvd.budget_rates(layer.named_parameters(), 1e6, size=0)
    with pytest.raises(ValueError, match="values is 'int8'"):
        hvd.budget_rates(layer.named_parameters(), 1e6, size=2, values="int8")


def a_plan_explains_every_parameter():
    layers = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100), nn.Linear(100, 3))
    compression = hvd.Compression.scalecom(rate=50, mode="cyclic", rates={"1.*": None, "2.weight": 8},
                                           warmup_steps=3, ramp_steps=5)
    plan = hvd.compression_plan(layers.named_parameters(), compression)
    rows = {row["name"]: row for row in plan}
    assert list(rows) == [name for name, _ in layers.named_parameters()]
    assert {name: row["mode"] for name, row in rows.items()} == {
        "0.weight": "cyclic", "0.bias": "dense", "1.weight": "dense", "1.bias": "dense",
        "2.weight": "cyclic", "2.bias": "dense"}
    assert (rows["0.weight"]["rate"], rows["2.weight"]["rate"], rows["1.weight"]["rate"]) == (50, 8, None)
    for name, *parts in (("0.weight", "no pattern", "cyclic", "first 3 steps", "5 steps after"),
                         ("0.bias", "1 dimension"), ("1.weight", "'1.*'"), ("2.weight", "'2.weight'")):
        assert all(part in rows[name]["reason"] for part in parts), rows[name]["reason"]
    share = (hvd.size() - 1) / hvd.size()
    row = rows["0.weight"]
    assert row["dense_bytes"] == round(2 * share * 4 * 60_000)
    assert row["bytes_sent"] == round(share * (2 * (4 * 1200 + 1) + 1200))
    assert rows["1.bias"]["sparse_us"] is None and rows["1.bias"]["bytes_sent"] == round(800 * share)
    text = str(plan).splitlines()
    assert text[0].split()[:3] == ["parameter", "elements", "mode"] and len(text) == 8
    assert text[-1].split()[:3] == ["all", "6", "80,603"]
    figures = hvd.flops_per_gradient(layers, torch.ones(320, 300))
    text = str(hvd.compression_plan(layers.named_parameters(), compression, figures)).splitlines()
    assert text[0].split()[2] == "FLOPs" and text[1].split()[:3] == ["0.weight", "60,000", "20"]
    not_built = copy.deepcopy(layers).to("meta")
    assert [row["bytes_sent"] for row in hvd.compression_plan(not_built.named_parameters(), compression)] == [
        row["bytes_sent"] for row in plan]
    with pytest.raises(ValueError, match="'3.' of rates matches no parameter"):
        hvd.compression_plan(layers.named_parameters(), hvd.Compression.scalecom(rates={"3*": 1}))
    with pytest.raises(ValueError, match="go together"):
        hvd.compression_plan(layers.named_parameters())
    with pytest.raises(ValueError, match="compression is 'scalecom'; allowed are"):
        hvd.compression_plan(layers.named_parameters(), "scalecom")
    for ask in (hvd.compression_plan, hvd.budget_rates):
        with pytest.raises(ValueError, match="named_parameters has a Parameter; pairs of name"):
            ask(layers.parameters(), compression if ask is hvd.compression_plan else 1e6)
    assert {row["mode"] for row in
            hvd.compression_plan(layers.double().named_parameters(), hvd.Compression.none)} == {"dense"}


def without_arguments_the_plan_is_that_of_what_trains():
    gc.collect()  # Of what other claims trained.
    assert hvd.compression_plan() == []
    layer, other = nn.Linear(100, 100), nn.Linear(50, 50)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.1),
                                         layer.named_parameters(),
                                         compression=hvd.Compression.scalecom(rate=10))
    hook = hvd.DDPState(other, hvd.Compression.scalecom(rate=20, rates={"weight": 5}), name="other.")
    rates = [(row["name"], row["rate"]) for row in hvd.compression_plan()]
    assert rates == [("weight", 10), ("bias", None), ("weight", 5), ("bias", None)]
    del optimizer, hook
    gc.collect()
    assert hvd.compression_plan() == []


def auto_does_what_its_plan_says():
    layers = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.Linear(1000, 1000, bias=False))
    compression = hvd.Compression.scalecom(rates={"0.*": 100, "1.*": 1}, mode="auto")
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layers.parameters(), 0.0),
                                         layers.named_parameters(), compression=compression)
    # A CUDA device is measured with the first.
    hvd.allreduce(torch.ones(64, 64), name="measured",
                  compression=hvd.Compression.scalecom(rate=100, mode="auto"))
    plan = {row["name"]: row for row in hvd.compression_plan()}
    # At rate 1 all values travel, and offsets besides.
    assert plan["1.weight"]["mode"] == "dense"
    if hvd.size() == 1:
        assert plan["0.weight"]["mode"] == "dense" and "one rank" in plan["0.weight"]["reason"]
    else:
        is_faster = plan["0.weight"]["sparse_us"] < plan["0.weight"]["dense_us"]
        assert plan["0.weight"]["mode"] == ("sharded" if is_faster else "dense")
    everyone = hvd.allgather_object([(row["name"], row["mode"]) for row in plan.values()])
    assert all(one == everyone[0] for one in everyone)
    before = hvd.stats()["compressed_tensors"]
    layers(torch.randn(8, 1000)).square().sum().backward()
    optimizer.step()
    compressed = [row for row in plan.values() if row["mode"] == "sharded"]
    assert hvd.stats()["compressed_tensors"] == before + len(compressed)


def a_ramp_rises_to_the_rate_and_loses_nothing():
    compression = hvd.Compression.scalecom(rate=64, beta=0.5, warmup_steps=1, ramp_steps=8)
    generator = torch.Generator().manual_seed(hvd.rank())
    given, got = torch.zeros(6400), torch.zeros(6400)
    for step in range(12):
        mine = torch.randn(6400, generator=generator, device="cpu").to(given.device)
        given += mine
        result = hvd.allreduce(mine, name="ramping", op=hvd.Sum, compression=compression)
        got += result
        rate = 1 if step == 0 else min(64, 4 << ((step - 1) // 2))
        assert int((result != 0).sum()) == 6400 // rate, step
    owed = hvd.compression_state()["ramping"].to(given.device) / 0.5
    missing = hvd.allreduce(given - owed, name="missing", op=hvd.Sum)
    assert torch.allclose(got, missing, rtol=1e-5, atol=1e-3)


def going_dense_delivers_what_is_owed():
    total = torch.zeros(500)
    for step in range(4):
        compression = hvd.Compression.scalecom(rate=50, beta=0.1) if step < 3 else hvd.Compression.none
        total += hvd.allreduce(torch.full((500,), float(step)), name="going dense", op=hvd.Average,
                               compression=compression)
    assert torch.allclose(total, torch.full((500,), 6.0), atol=1e-4)
    assert not hvd.compression_state()["going dense"].any()


def another_compression_takes_effect_at_the_next_step_and_nothing_is_lost():
    layer = nn.Linear(64, 64, bias=False)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.1), [("changing", layer.weight)],
                                         compression=hvd.Compression.scalecom(rate=64, beta=0.5))
    given, got = torch.zeros(2, 64, 64, dtype=torch.float64)
    for step, (compression, selected) in enumerate((
            (None, 64), (hvd.Compression.scalecom(rate=8, beta=0.1, mode="cyclic"), 512), (hvd.Compression.none, 4096),
            (hvd.Compression.scalecom(rates={"changing": 16}), 256))):
        if compression is not None:
            optimizer.compression = compression
        gradient = torch.randn(64, 64, generator=torch.Generator().manual_seed(10 * step + hvd.rank()),
                               device="cpu").to(layer.weight.device)
        optimizer.zero_grad()
        (layer.weight * gradient).sum().backward()
        if step == 1:
            with pytest.raises(AssertionError, match="compression .* between backward.. and step"):
                optimizer.compression = hvd.Compression.none
        optimizer.step()
        assert (layer.weight.grad != 0).sum() == selected, step
        given += gradient.double()
        got += layer.weight.grad.double()
    owed = hvd.compression_state()["changing"].to(given)
    assert torch.allclose(got, hvd.allreduce(given - owed), atol=1e-5)
    for wrong, message in ((7, "compression is 7; allowed are"),
                           (hvd.Compression.scalecom(rates={"nowhere": 2}), "'nowhere' of rates matches no")):
        with pytest.raises(ValueError, match=message):
            optimizer.compression = wrong
    assert "16" in repr(optimizer.compression)


def who_wraps_parameters_again_takes_them_over():
    layer, compression = nn.Linear(64, 64, bias=False), hvd.Compression.scalecom(rate=8)

    def wrap():
        return hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.1), [("taken", layer.weight)],
                                        compression=compression)

    def step(optimizer):
        optimizer.zero_grad()
        layer(torch.ones(2, 64)).square().sum().backward()
        optimizer.step()

    first = wrap()
    step(first)
    second = wrap()
    step(second)
    assert hvd.compression_steps()["taken"] == 2 and [row["name"] for row in hvd.compression_plan()].count("taken") == 1
    with pytest.raises(AssertionError, match="parameters of this DistributedOptimizer were taken over"):
        first.step()
    del first, second  # No gradient is reduced from here on.
    layer.weight.grad = None
    layer(torch.ones(2, 64) * hvd.rank()).square().sum().backward()
    layer(torch.ones(2, 64)).square().sum().backward()
    step(wrap())
    assert hvd.compression_steps()["taken"] == 3


def _file_of_rates(text):
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        file.write(text)
    return pathlib.Path(file.name)


def rates_come_from_a_file():
    rates = {"fc*.weight": 400, "conv1.*": None, "words": {"rate": 50, "mode": "cyclic"}, "*": 25}
    path = _file_of_rates(json.dumps(rates))
    for name in (path, str(path)):
        compression = hvd.Compression.scalecom(rates=name)
        assert compression.rates == rates and list(compression.rates) == list(rates)
    layer = nn.Linear(100, 100)
    assert compression.rate_of("fc1.weight", layer.weight) == 400
    assert compression.rate_of("conv1.weight", layer.weight) is None
    assert compression.rate_of("words", layer.weight) == 50
    assert [compression.options_for(name, layer.weight).mode for name in ("fc1.weight", "words")] == [3, 1]


def an_error_in_a_file_of_rates_names_file_place_and_what_is_allowed():
    for text, part in [('{"a": 1,\n "b" 2}', "json, line 2, column 6.*one JSON object"),
                       ("[1, 2]", "json: it holds .1, 2.; it must hold one JSON object"),
                       ("", "line 1, column 1"),
                       ('{"a": 1, "a": 2}', "json: the pattern 'a' of rates is there twice"),
                       ('{"a": 0}', "json: the pattern 'a'.*rate is 0; allowed are .*1 to 65536.*null"),
                       ('{"a": "x"}', "the pattern 'a'.*rate is 'x'"),
                       ('{"a": true}', "the pattern 'a'.*rate is True"),
                       ('{"a": {"rate": 1}}', "the pattern 'a' of rates: it is .*whole numbers.*\"mode\": a mode"),
                       ('{"a": {"rate": 2, "mode": "x"}}', "pattern 'a' of rates: mode is 'x'; allowed are 'cyclic'"),
                       ('{"a": NaN}', "the pattern 'a'.*rate is nan")]:
        with pytest.raises(ValueError, match=part):
            hvd.Compression.scalecom(rates=_file_of_rates(text))
    with pytest.raises(ValueError, match="cannot be read.*absent.json"):
        hvd.Compression.scalecom(rates="absent.json")


def wrong_choices_are_refused_at_once_and_none_can_be_changed():
    for wrong, part in (({"min_elements": "x"}, "min_elements is 'x'; allowed are whole numbers"),
                        ({"min_elements": -1}, "min_elements is -1"), ({"min_elements": None}, "min_elements is None"),
                        ({"mode": []}, r"mode is \[\]; allowed are 'cyclic'"), ({"values": 6}, "values is 6; allowed")):
        with pytest.raises(ValueError, match=part):
            hvd.Compression.scalecom(**wrong)
    compression = pickle.loads(pickle.dumps(hvd.Compression.scalecom(rate=64, rates={"fc*": 3})))
    for name in ("rate", "beta", "mode", "values", "guard", "warmup_steps", "rates"):
        with pytest.raises(AttributeError, match=f"^{name} of .*assign a new one.*optimizer.compression = "):
            setattr(compression, name, getattr(compression, name))
    with pytest.raises(TypeError):
        compression.rates["fc*"] = 4
    assert compression.options().rate == 64 and compression.rates == {"fc*": 3}
    with pytest.raises(ValueError, match="model is None; a torch.nn.Module is needed"):
        hvd.flops_rates(None)


def wrong_rates_are_refused_by_name():
    for rates, part in [({"fc*": 0}, "'fc.' of rates: rate is 0"), ({3: 4}, "pattern of rates is 3"),
                        ([("a", 1)], "rates is .*must be a dict"), (7, "rates is 7.*path")]:
        with pytest.raises(ValueError, match=part):
            hvd.Compression.scalecom(rates=rates)
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'fc.' of rates matches no parameter; there are weight"):
        hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.1), layer.named_parameters(),
                                 compression=hvd.Compression.scalecom(rates={"fc*": 4}))
