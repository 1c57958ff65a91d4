"""Places for addresses: never two for one, never one for two, none before its streams end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.discovery import DiscoveryConfig
from gateway.fleet.discovery import Assignment, Discovery, place_names
from gateway.fleet.found import Answer, LookupFailed, url_of

PLACES = ("p/0", "p/1", "p/2")
ADDRESSES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@given(st.lists(st.tuples(ADDRESSES, st.sets(st.sampled_from(PLACES))), max_size=12))
def test_places_and_addresses_match_one_to_one(rounds: list[tuple[list[str], set[str]]]) -> None:
    """Each round: what DNS says, and the places where streams still run."""
    assignment = Assignment(PLACES)
    last: dict[str, str] = {}
    for addresses, busy in rounds:
        before = dict(assignment.current)
        gone = assignment.leaving(addresses)
        assert gone == {p: a for p, a in before.items() if a not in addresses}
        idle = set(PLACES) - busy
        given_now, without = assignment.coming(addresses, idle.__contains__)
        current = assignment.current
        assert len(set(current.values())) == len(current) <= len(PLACES)
        assert set(current.values()) | set(without) == set(addresses)
        assert not set(current.values()) & set(without)
        for place, address in before.items():
            assert place in gone or current[place] == address, (
                "a replica that stays keeps its place"
            )
        for place, address in given_now.items():
            assert place not in busy or last.get(place) == address, "the place was not free"
        if without:
            free = set(PLACES) - set(current)
            assert free <= busy, "a free place was not given"
        last |= given_now


@dataclass
class _Recorded:
    """What was reported: places without an address, and addresses of places that are new."""

    events: list[str] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    discovery: Discovery | None = None

    async def changed(self, gone: Mapping[str, str]) -> None:
        assert self.discovery is not None
        urls = self.discovery.urls
        self.events += [f"{place} {reason}" for place, reason in gone.items()]
        self.events += [f"{p} {url}" for p, url in urls.items() if self.urls.get(p) != url]
        self.urls = urls


def following(
    answers: Iterable[Answer | Exception], **settings: float
) -> tuple[Discovery, _Recorded]:
    found = iter(answers)

    async def look_up() -> Answer:
        answer = next(found)
        if isinstance(answer, Exception):
            raise answer
        return answer

    places = _Recorded()
    discover = DiscoveryConfig(dns="vllm", port=8000, **settings)  # type: ignore[arg-type]
    places.discovery = Discovery(
        discover, "p", look_up, is_idle=lambda place: True, on_change=places.changed
    )
    return places.discovery, places


def found(*addresses: str, ttl_s: float | None = 5.0) -> Answer:
    return Answer(addresses=addresses, ttl_s=ttl_s)


async def test_the_ttl_says_when_to_look_again_within_bounds() -> None:
    answers = [found("10.0.0.1", ttl_s=ttl) for ttl in (0.0, 5.0, 3600.0, None)]
    discovery, _ = following([*answers, LookupFailed("no")], min_refresh_s=2, max_refresh_s=30)
    assert [await discovery.refresh() for _ in range(5)] == [2, 5, 30, 30, 2]


async def test_changes_are_told_once_and_only_changes() -> None:
    discovery, places = following(
        [
            found("10.0.0.1"),
            found("10.0.0.1"),
            LookupFailed("SERVFAIL"),
            found("10.0.0.2", "fd00::1"),
            found(),
            found("10.0.0.2", "fd00::1"),
            found(),
            found(),
        ]
    )
    told = []
    for _ in range(8):
        await discovery.refresh()
        told.append(places.events)
        places.events = []
    assert told == [
        ["p/0 http://10.0.0.1:8000"],
        [],
        [],
        [
            "p/0 10.0.0.1 is gone from vllm",
            "p/0 http://10.0.0.2:8000",
            "p/1 http://[fd00::1]:8000",
        ],
        [],
        [],
        [],
        ["p/0 10.0.0.2 is gone from vllm", "p/1 fd00::1 is gone from vllm"],
    ]


async def test_an_empty_answer_that_is_certain_counts_at_once() -> None:
    none = Answer(addresses=(), ttl_s=0.0, is_certain=True)
    discovery, places = following([found("10.0.0.1"), none])
    await discovery.refresh()
    await discovery.refresh()
    assert places.events[-1] == "p/0 10.0.0.1 is gone from vllm"


async def test_another_one_of_the_same_settings_goes_on_where_it_was() -> None:
    old, _ = following([found("10.0.0.1", "10.0.0.2"), found("10.0.0.2")])
    await old.refresh()
    await old.refresh()
    same, places = following([found("10.0.0.2", "10.0.0.1")])
    same.adopt(old)
    assert same.urls == {"p/1": "http://10.0.0.2:8000"}
    places.urls = same.urls
    await same.refresh()
    assert places.events == ["p/0 http://10.0.0.1:8000"]
    oftener, _ = following([], max_refresh_s=9, max_replicas=1)
    oftener.adopt(old)
    assert not oftener.urls, "its place is not there any more"
    other, _ = following([])
    other.settings = DiscoveryConfig(dns="others", port=8000)
    other.adopt(old)
    assert not other.urls


def test_names_of_places_and_addresses() -> None:
    assert place_names("p", DiscoveryConfig(dns="x", port=1, max_replicas=2)) == ("p/0", "p/1")
    assert url_of("::1", 80) == "http://[::1]:80"
