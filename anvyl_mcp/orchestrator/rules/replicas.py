"""Orders for a number of containers that is kept, like `keep five of these running`: a service of a Swarm.

Without a Swarm the call fails with what is lost without one and the ways to go on.
"""

from __future__ import annotations

import re

from anvyl_mcp.core.errors import NotFound, NotUnderstood
from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.normalize import THANKS
from anvyl_mcp.orchestrator.language.vocabulary import COUNTED, NAME, NUMBERS, either, is_name, without_lead
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.results.answers import Call

NUMBER = rf"(?P<number>\d{{1,4}}|{either({*NUMBERS, *COUNTED})})"
COUNTS = re.compile(rf"(?i)\b{NUMBER}\b")
UNITS = r"(?:replicas?|copies|copy|instances?|containers)"
OF = rf"(?:of\s+)?(?:the\s+|my\s+|our\s+)?(?:service\s+|image\s+)?(?P<name>{NAME})(?:\s+(?:containers?|services?))?"
HAVE = (
    r"(?:(?:i|we)\s+(?:want|need|would\s+like)|want|need|have|keep|run|start|launch|deploy"
    r"|(?:make\s+sure\s+)?(?:that\s+)?there\s+(?:are|is|should\s+be|must\s+be))\s+(?:(?:always|exactly|at\s+least|just)\s+)*"
)
SCALE = (
    rf"scale\s+{OF}(?:\s+(?:up|down))?\s+to\s+{NUMBER}(?:\s+{UNITS})?",
    rf"(?:set|change|bring)\s+(?:the\s+)?(?:number\s+of\s+)?{UNITS}\s+{OF}\s+to\s+{NUMBER}",
)
WAYS = (
    *SCALE,
    rf"{HAVE}{NUMBER}\s+{UNITS}\s+{OF}(?:\s+(?:running|up|alive))?",
    rf"{HAVE}{NUMBER}\s+{OF}\s+(?:running|up|alive)",
)
EVERYWHERE = r"(?:\s+(?:across|on|over)\s+(?:the\s+)?(?:whole\s+)?fleet|\s+everywhere)?"
"""How a number of replicas is ordered; each is a whole sentence."""
PRONOUN = frozenset({"it", "this", "that", "these", "those", "them"})


ONLY_THE_IMAGE = "only the image of the container is used: its command, ports, volumes and environment are not"


def remark(call: Call, scene: Scene) -> tuple[str, ...]:
    """What a service that is made of a container lacks."""
    of_container = call.arguments.get("name") in scene.names("container")
    return (ONLY_THE_IMAGE,) if call.listing.name == "create_service" and of_container else ()


async def read(said: str, scene: Scene) -> Call | None:
    """The call for an order about replicas; None if it is no such order.

    Raises:
        NotUnderstood: it is not clear of what.
        NotFound: what it names does not exist.
    """
    if not COUNTS.search(said) or not {"scale_service", "create_service", "list_services"} <= scene.tools.keys():
        return None
    sentence = THANKS.sub("", without_lead(said)).strip()
    found = ((way, re.fullmatch(way + EVERYWHERE, sentence, re.IGNORECASE)) for way in WAYS)
    way, match = next(((way, match) for way, match in found if match), ("", None))
    if match is None:
        return None
    number = match["number"].lower()
    replicas = int(NUMBERS.get(number, COUNTED.get(number, number)))
    services = {one.name for one in await scene.look_up("service")}
    name = match["name"]
    if name.lower() in PRONOUN:
        if not services:
            return Call(scene.tools["list_services"], {})  # says what a Swarm is for, if there is none
        raise NotUnderstood(f"it is not clear what `{name}` is", hint=f"name it: keep {replicas} of web running")
    if name not in services:
        if not is_name(name):
            return None
        image = name if images_in(name) else await _image_of(name, scene)
        if image:
            given = {"image": image, "name": re.split(r"[/:@]", name)[-2 if ":" in name else -1], "replicas": replicas}
            return Call(scene.tools["create_service"], given)
        if way in SCALE:
            raise NotFound(
                f"no host has a service, a container or an image `{name}`",
                hint=f"see anvyl ps and anvyl images, or name an image: keep {replicas} of nginx:1.27 running",
            )
    return Call(scene.tools["scale_service"], {"name": name, "replicas": replicas})


async def _image_of(name: str, scene: Scene) -> str:
    """The image of the container of a name, or an image that a host has; empty if there is none, or several."""
    images = {str(one.row.get("image") or "") for one in await scene.look_up("container") if one.name == name}
    if not images:
        images = {one.name for one in await scene.look_up("image") if one.name in (name, f"{name}:latest")}
    return images.pop() if len(images) == 1 else ""
