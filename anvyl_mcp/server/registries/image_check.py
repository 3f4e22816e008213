"""Checks which images have newer ones in their registries."""

from __future__ import annotations

import email.utils
import ipaddress
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import httpx

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, NotFound
from anvyl_mcp.server.engine import compat, timestamps
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.registries.check_cache import CheckCache, TagAnswer
from anvyl_mcp.server.registries.client import INDEX_TYPES, RateLimited, RegistryClient
from anvyl_mcp.server.registries.image_facts import ImageFacts, read_facts
from anvyl_mcp.server.registries.references import ImageReference
from anvyl_mcp.server.tool import Injected

TOTAL_SECONDS = 30.0
"""Time limit for asking all registries of one call."""
DEFAULT_PAUSE, LONGEST_PAUSE = 60.0, 6 * 3600.0
REMAINING = re.compile(r"(\d+)(?:;w=(\d+))?")


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image on this host. `digests`: every digest that identifies it, here or in a registry."""

    id: str
    digests: frozenset[str]
    platform: tuple[str, str, str]
    facts: ImageFacts
    pulled: str
    """The digest with which it was pulled; empty if it was built or imported here."""
    names: tuple[str, ...] = ()
    """Its names with digests, like `nginx@sha256:…`."""
    tagged: float = 0.0
    """When it got its last tag, mostly by a pull, in seconds since 1970; 0 if unknown."""

    @classmethod
    def read(cls, engine: Engine, identifier: str) -> LocalImage | None:
        """Inspect an image by id; None if it is gone."""
        try:
            with engine_errors(missing=lambda: NotFound("there is no such image")):
                raw = engine.client().inspect_image(identifier)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except NotFound:
            return None
        found = compat.image(raw)
        pulled = [name.rpartition("@")[2] for name in found["RepoDigests"]]
        descriptor = compat.string(compat.mapping(found.get("Descriptor")).get("digest"))
        tagged = compat.string(compat.mapping(found.get("Metadata")).get("LastTagTime"))
        platform = tuple(compat.string(found.get(key)) for key in ("Os", "Architecture", "Variant"))
        digests = frozenset({found["Id"], descriptor, *pulled} - {""})
        return cls(
            found["Id"],
            digests,
            (platform[0], platform[1], platform[2]),
            read_facts(found, ()),
            next(iter(pulled), ""),
            tuple(found["RepoDigests"]),
            max(0, timestamps.to_nanoseconds(tagged) or 0) / timestamps.SECOND,
        )


@dataclass(frozen=True, slots=True)
class NewerImage:
    """What a registry has for an image; `error` if that is unknown, `newer` None if it is the same image."""

    answer: TagAnswer
    newer: ImageFacts | None


ImageToCheck = tuple[ImageReference, LocalImage]


class ImageChecker(Injected):
    """Asks registries about tags, with a cache. Only for images of existing containers."""

    def __init__(self, cache: CheckCache) -> None:
        self._cache = cache
        self._turn = threading.Lock()

    def check(self, engine: Engine, wanted: Sequence[ImageToCheck], *, refresh: bool = False) -> list[NewerImage]:
        """Compare images with their registries, in order. Blocks the thread, for at most about `TOTAL_SECONDS`."""
        with self._turn:
            self._cache.load()
            if wanted:
                anyio.run(self._ask, wanted, InsecureRegistries.of(engine), refresh)
                self._cache.save()
            return [self._result(image, local) for image, local in wanted]

    def _result(self, image: ImageReference, local: LocalImage) -> NewerImage:
        answer = self._cache.tag(str(image)) or self._cache.put_error(str(image), _TOO_SLOW)
        facts = self._cache.image(_key(answer.digest, local)) or ImageFacts((answer.digest,))
        same = not answer.digest or not local.digests.isdisjoint(facts.digests)
        return NewerImage(answer, None if same else facts)

    async def _ask(self, wanted: Sequence[ImageToCheck], insecure: InsecureRegistries, refresh: bool) -> None:
        by_tag: dict[ImageReference, dict[str, LocalImage]] = {}
        for image, local in wanted:
            by_tag.setdefault(image, {})[local.id] = local
        unfinished = set(map(str, by_tag))

        async def ask(client: RegistryClient, image: ImageReference) -> None:
            try:
                # An answer from before a pull may be about an older image than the one here.
                pulled = max(local.tagged for local in by_tag[image].values())
                digest = await self._digest(client, image, pulled, refresh)
                for local in by_tag[image].values():
                    await self._learn(client, image, digest, local)
            except RateLimited as error:
                self._note_limit(image.registry, error.response)
                pause = self._cache.pause(image.registry)
                self._cache.put_error(str(image), pause.why if pause else error.message)
            except AnvylError as error:
                self._cache.put_error(str(image), str(error))
            unfinished.discard(str(image))

        with anyio.move_on_after(TOTAL_SECONDS):
            async with RegistryClient(insecure.allows) as client, anyio.create_task_group() as group:
                for image in by_tag:
                    group.start_soon(ask, client, image)
        for name in unfinished:
            self._cache.put_error(name, _TOO_SLOW)

    async def _digest(self, client: RegistryClient, image: ImageReference, pulled: float, refresh: bool) -> str:
        """The digest of a tag, from the cache or the registry; empty if the registry asked to wait."""
        answer = self._cache.tag(str(image))
        again = refresh or (answer is not None and pulled > answer.at)
        if answer and self._cache.is_fresh(answer) and (answer.error or not again):
            return "" if answer.error else answer.digest
        if pause := self._cache.pause(image.registry):
            self._cache.put_error(str(image), pause.why)
            return ""
        return self._cache.put_tag(
            str(image), await client.digest(image, partial(self._note_limit, image.registry))
        ).digest

    async def _learn(self, client: RegistryClient, image: ImageReference, digest: str, local: LocalImage) -> None:
        """Read the facts about a newer image, once."""
        key = _key(digest, local)
        if (
            digest
            and digest not in local.digests
            and not self._cache.image(key)
            and not self._cache.pause(image.registry)
        ):
            self._cache.put_image(key, await self._facts(client, image, digest, local))

    async def _facts(self, client: RegistryClient, image: ImageReference, digest: str, local: LocalImage) -> ImageFacts:
        """Read what the image of a tag is, for the platform of the local one."""
        note = partial(self._note_limit, image.registry)
        manifest, digests = await client.manifest(image, digest, note), [digest]
        if manifest.get("mediaType") in INDEX_TYPES or "manifests" in manifest:
            chosen = _platform_digest(compat.objects(manifest.get("manifests")), local.platform)
            if not chosen:
                raise NotFound(f"{image.registry} has no {image.repository}:{image.tag} for {'/'.join(local.platform)}")
            digests.append(chosen)
            manifest = await client.manifest(image, chosen, note)
        config = compat.string(compat.mapping(manifest.get("config")).get("digest"))
        return read_facts(await client.config(image, config, note), [*digests, config])

    def _note_limit(self, registry: str, response: httpx.Response) -> None:
        """Heed `Retry-After`, and stop before the last request that a registry allows."""
        if response.status_code == 429:
            seconds = _retry_after(response.headers.get("retry-after", ""))
        else:
            match = REMAINING.fullmatch(response.headers.get("ratelimit-remaining", ""))
            if not match or int(match[1]) > 0:
                return
            seconds = float(match[2] or DEFAULT_PAUSE)
        seconds = min(max(seconds, 1.0), LONGEST_PAUSE)
        until = text.format_timestamp(time.time() + seconds)[11:16]
        why = f"{registry} limits the number of requests; it is asked again after {until} UTC"
        self._cache.put_pause(registry, seconds, why)


@dataclass(frozen=True, slots=True)
class InsecureRegistries:
    """The registries to which the engine allows plain HTTP."""

    names: Collection[str]
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

    @classmethod
    def of(cls, engine: Engine) -> InsecureRegistries:
        """Read the engine's configuration."""
        config = compat.mapping(engine.info().get("RegistryConfig"))
        named = {
            str(name)
            for name, one in compat.mapping(config.get("IndexConfigs")).items()
            if compat.mapping(one).get("Secure") is False
        }
        networks = []
        for one in compat.strings(config.get("InsecureRegistryCIDRs")):
            try:
                networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                continue
        return cls(named, networks)

    def allows(self, host: str) -> bool:
        """Whether plain HTTP to this host and port is allowed: it is listed, or on loopback."""
        name = httpx.URL(f"//{host}").host
        if host in self.names or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or any(address in one for one in self.networks)


_TOO_SLOW = "its registry did not answer in time"


def _key(digest: str, local: LocalImage) -> str:
    return f"{digest} {'/'.join(local.platform)}"


def _platform_digest(manifests: Sequence[Mapping[str, Any]], platform: tuple[str, str, str]) -> str:
    """Digest of the manifest for a platform; the variant may be missing on one side."""
    fitting: dict[str, str] = {}
    for one in manifests:
        found = compat.mapping(one.get("platform"))
        if (found.get("os"), found.get("architecture")) == platform[:2]:
            fitting.setdefault(compat.string(found.get("variant")), compat.string(one.get("digest")))
    return fitting.get(platform[2]) or next(iter(fitting.values()), "")


def _retry_after(value: str) -> float:
    """Seconds in a `Retry-After` header, which is a number or a date."""
    if value.isdecimal():
        return float(value[:9])
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return DEFAULT_PAUSE
