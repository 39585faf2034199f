"""ElasticSampler, and the states of scalecom.torch.elastic, without ranks."""

import pytest
import torch

import scalecom.torch as hvd
from scalecom import basics


@pytest.fixture
def as_rank(monkeypatch):
    """as_rank(rank, size): this process is that one."""

    def become(rank, size):
        monkeypatch.setattr(basics, "rank", lambda: rank)
        monkeypatch.setattr(basics, "size", lambda: size)

    become(0, 1)
    return become


def samplers(as_rank, size, count, **options):
    made = []
    for rank in range(size):
        as_rank(rank, size)
        made.append(hvd.elastic.ElasticSampler(range(count), **options))
    return made


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size, count", [(1, 10), (3, 10), (4, 8), (4, 1), (3, 0)])
def test_ranks_share_the_indices(as_rank, size, count, shuffle):
    parts = [list(one) for one in samplers(as_rank, size, count, shuffle=shuffle)]
    assert {len(part) for part in parts} == {-(-count // size)}
    together = [index for part in parts for index in part]
    assert set(together) == set(range(count))
    assert max(map(together.count, together), default=0) <= (1 if count % size == 0 else size)


def test_the_order_follows_seed_and_epoch(as_rank):
    sampler, same = samplers(as_rank, 1, 50) + samplers(as_rank, 1, 50)
    first = list(sampler)
    assert first == list(same) and first != list(range(50)) and list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == sorted(first)
    other, = samplers(as_rank, 1, 50, seed=1)
    assert list(other) != first


def test_what_was_processed_does_not_come_again(as_rank):
    """Three ranks do two batches each; then two ranks share what is left."""
    parts = samplers(as_rank, 3, 31)
    for sampler in parts:
        for batch in range(2):
            assert sampler.get_indices(batch, 4) == list(sampler)[4 * batch:4 * batch + 4]
            sampler.record_batch(batch, 4)
        assert sampler.processed_num == 8
    done = set().union(*(one.processed_indices for one in parts))
    assert len(done) == 24
    left = []
    for rank, sampler in enumerate(parts[:2]):
        as_rank(rank, 2)
        sampler.load_state_dict({"epoch": 0, "processed_indices": done})
        left += list(sampler)
        assert len(sampler) == 4
    assert set(left) == set(range(31)) - done
    as_rank(0, 2)
    parts[0].set_epoch(1)
    assert len(parts[0]) == 16 and not parts[0].processed_indices


def sync_all(monkeypatch, keepers):
    """Each keeper's sync(), as that of a rank of its own."""
    given = []

    class Noted(Exception):
        pass

    def note(value, _):
        given.append(value)
        raise Noted

    monkeypatch.setattr(hvd.elastic, "allgather_object", note)
    for keeper in keepers:
        with pytest.raises(Noted):
            keeper.sync()
    monkeypatch.setattr(hvd.elastic, "allgather_object", lambda value, _: given)
    for keeper in keepers:
        keeper.sync()
        keeper.keep(keeper.copied(), is_sync=True)


@pytest.mark.parametrize("behind", [0, 1, None])
def test_what_rank_0_has_not_committed_comes_again(as_rank, monkeypatch, behind):
    """Two ranks commit twice, and one of them, or none, is interrupted before it has saved the second
    time; then both go back to what they have."""
    parts = samplers(as_rank, 2, 16)
    keepers = [hvd.elastic._SamplerKeeper(sampler) for sampler in parts]
    sync_all(monkeypatch, keepers)
    batches = [[sampler.get_indices(batch, 2) for batch in range(2)] for sampler in parts]
    for batch in range(2):
        for rank, sampler in enumerate(parts):
            sampler.record_batch(batch, 2)
            if batch == 0 or rank != behind:
                keepers[rank].keep(keepers[rank].copied())
    for keeper in keepers:
        keeper.restore()
    sync_all(monkeypatch, keepers)
    first = {*batches[0][0], *batches[1][0]}
    second = {None: {*batches[0][1], *batches[1][1]}, 0: set(), 1: set(batches[0][1])}[behind]
    for sampler in parts:
        assert sampler.processed_indices == first | second


def test_batches_keep_their_numbers_until_the_next_iteration(as_rank):
    sampler, = samplers(as_rank, 1, 8)
    going = list(sampler)
    sampler.record_batch(0, 2)
    sampler.load_state_dict(sampler.state_dict())
    sampler.record_batch(1, 2)
    assert sampler.processed_indices == set(going[:4])
    sampler.reset()
    assert set(sampler) == set(going[4:]) and set(sampler.get_indices(0, 4)) == set(going[4:])


def test_the_last_batch_may_be_smaller(as_rank):
    sampler, = samplers(as_rank, 1, 10)
    sampler.record_batch(2, 4)
    assert len(sampler.processed_indices) == 2


def test_a_state_dict_is_a_copy(as_rank):
    sampler, = samplers(as_rank, 1, 10)
    saved = sampler.state_dict()
    sampler.record_indices([1, 2])
    assert saved == {"epoch": 0, "processed_indices": set()}


@pytest.fixture
def session():
    hvd.init()
    yield
    hvd.shutdown()


def make_state(**attributes):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return hvd.elastic.TorchState(model=model, optimizer=optimizer, **attributes)


def train(state):
    state.optimizer.zero_grad()
    state.model(torch.ones(4, 3)).square().sum().backward()
    state.optimizer.step()


def test_a_state_goes_back_to_its_last_save(session):
    state = make_state(epoch=0, history=[])
    train(state)
    state.history.append(1)
    state.commit()
    weight = state.model.weight.detach().clone()
    momentum = state.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    for _ in range(2):  # What was restored must not be the saved one itself.
        train(state)
        state.epoch = 5
        state.history.append(2)
        assert not torch.equal(state.model.weight, weight)
        state.restore()
        assert torch.equal(state.model.weight, weight)
        assert torch.equal(state.optimizer.state_dict()["state"][0]["exp_avg"], momentum)
        assert (state.epoch, state.history) == (0, [1])


def test_sync_takes_what_is_there_and_saves_it(session):
    state = make_state(epoch=0)
    train(state)
    state.epoch = 3
    weight = state.model.weight.detach().clone()
    state.sync()
    assert state.epoch == 3
    train(state)
    state.restore()
    assert state.epoch == 3 and torch.equal(state.model.weight, weight)


class Lost:
    """An attribute that is not copied or sent any more once a rank is lost."""

    def __init__(self):
        self.is_lost = False

    def __deepcopy__(self, _):
        if self.is_lost:
            raise hvd.HorovodInternalError("a rank is lost")
        return self


@pytest.mark.parametrize("method", ["save", "sync"])
def test_what_fails_half_way_leaves_the_save_before_it(session, method):
    lost = Lost()
    state = make_state(epoch=0, last=lost)
    train(state)
    state.save()
    weight = state.model.weight.detach().clone()
    momentum = state.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    train(state)
    state.epoch, lost.is_lost = 1, True
    with pytest.raises(hvd.HorovodInternalError):
        getattr(state, method)()
    lost.is_lost = False
    state.restore()
    assert torch.equal(state.model.weight, weight) and state.epoch == 0
    assert torch.equal(state.optimizer.state_dict()["state"][0]["exp_avg"], momentum)


def test_the_loop_restores_keeps_and_counts(session):
    state = make_state(step=0)
    resets = []
    state.register_reset_callbacks([lambda: resets.append((state.step, hvd.size()))])
    raised = iter([hvd.HorovodInternalError("gone"), hvd.HostsUpdatedInterrupt(), None])

    @hvd.elastic.run
    def work(state, word):
        state.step += 1
        if error := next(raised):
            raise error
        return word, state.step

    assert work(state, "done") == ("done", 2)
    assert resets == [(0, 1), (1, 1)]


def test_a_half_done_step_is_given_up(session):
    model = torch.nn.Linear(3, 2)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1),
                                         named_parameters=model.named_parameters())
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer)
    failures = iter([True, False])

    @hvd.elastic.run
    def work(state):
        state.optimizer.zero_grad()
        state.model(torch.ones(4, 3)).sum().backward()
        if next(failures):
            raise hvd.HorovodInternalError("half-way")
        state.optimizer.step()

    work(state)
    assert all(one.grad is not None for one in model.parameters())


def test_an_optimizer_of_a_process_set_is_refused(session):
    model = torch.nn.Linear(3, 2)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), named_parameters=model.named_parameters(),
        process_set=hvd.global_process_set)
    hvd.elastic.TorchState(optimizer=optimizer)
    optimizer._scalecom.process_set = hvd.ProcessSet([0])  # A job of one rank has room for none.
    with pytest.raises(ValueError, match="the optimizer is of ProcessSet.*leave it out"):
        hvd.elastic.TorchState(optimizer=optimizer)


@pytest.mark.parametrize("error", [ValueError("v"), RuntimeError("r"), KeyError("k")])
def test_other_errors_are_the_programs(session, error):
    calls = []

    @hvd.elastic.run
    def work(state):
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        work(make_state())
    assert caught.value is error and calls == [1]
