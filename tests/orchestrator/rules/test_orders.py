"""Orders that the inventory decides, remarks that are set aside, other languages and typos, without a model."""

from __future__ import annotations

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import NotFound, NotUnderstood
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply

Targets = set[tuple[str, str]]


async def ask(question: str) -> Reply:
    """Ask the rules on the simulated fleet; no change is approved."""
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))

    async def wait(proposal: Proposal) -> bool | None:
        return None

    try:
        return await Assistant(simulation.fleet, load()).ask(Question(question), decide=wait, offline=True)
    finally:
        await simulation.fleet.aclose()


def targets(reply: Reply) -> Targets:
    """Object and host of each proposed change."""
    return {
        (str(one.arguments.get("name") or one.arguments.get("image")), host)
        for one in reply.proposals
        for host in one.hosts
    }


def shown(reply: Reply) -> str:
    """What the person who approves sees besides the changes."""
    return " ".join(line for one in reply.proposals for line in one.details)


NAS = {("photos", "nas"), ("cache", "nas"), ("grafana", "nas"), ("vault", "nas"), ("db", "nas")}


@pytest.mark.parametrize(
    ("order", "wanted", "decided"),
    [
        ("stop everything on nas but db", NAS - {("db", "nas")}, "without db"),
        ("stop everything on nas except db and grafana", NAS - {("db", "nas"), ("grafana", "nas")}, "db, grafana"),
        ("stop all on nas except the database", NAS - {("db", "nas")}, "without db"),
        ("stop everything on gpu apart from jupyter", {("ollama", "gpu")}, "without jupyter"),
        ("shut down everything on gpu but jupyter", {("ollama", "gpu")}, "without jupyter"),
        ("stop everything on gpu, jupyter excepted", {("ollama", "gpu")}, "without jupyter"),
        ("leave jupyter alone, stop everything else on gpu", {("ollama", "gpu")}, "without jupyter"),
        ("stop web on all hosts except web1", {("web", "web2")}, "without web1"),
        ("pull nginx:1.29 on all hosts except gpu", {("nginx:1.29", host) for host in ("nas", "web1", "web2")}, "gpu"),
        ("update everything on nas except db", {("grafana", "nas")}, "left out, no update: photos, backup"),
        ("update everything", {("grafana", "nas")}, "left out, no update: 13 containers"),
        ("update cache on nas", {("cache", "nas")}, ""),
        ("if worker is down start it", {("worker", "web1")}, "worker is exited on web1"),
        ("start worker if it is not running", {("worker", "web1")}, "worker is exited on web1"),
        ("restart photos unless it is healthy", {("photos", "nas")}, "photos"),
        ("if worker is stopped, restart grafana", {("grafana", "nas")}, "worker is exited on web1"),
        ("make sure worker is running", {("worker", "web1")}, "worker is exited"),
        ("restart the ones with team=ops", {("grafana", "nas")}, "grafana on nas"),
        (
            "restart all containers based on the redis image",
            {("cache", "nas"), ("cache", "web1")},
            "from the image redis",
        ),
        ("stop the container that listens on port 11434", {("ollama", "gpu")}, "on port 11434"),
        ("remove the volumes on nas that nothing uses", {("old-backups", "nas")}, "that no container uses"),
        ("everything unhealthy: restart them", {("photos", "nas")}, ""),
        ("stop ollama and start trainer instead", {("ollama", "gpu")}, ""),
        ("prune the stopped containers on gpu", {("None", "gpu")}, ""),
        ("remove every container that exited with code 1", {("backup", "nas"), ("old-trainer", "gpu")}, "exit code 1"),
        (
            "remove the containers on nas and gpu that ended with exit code 1.",
            {("backup", "nas"), ("old-trainer", "gpu")},
            "exit code 1",
        ),
        ("restart everything carrying the label shop.part=front on web1", {("web", "web1")}, "shop.part=front"),
        ("if photos is unhealthy, restart it; otherwise leave it alone", {("photos", "nas")}, "photos is running"),
        ("restart both caches", {("cache", "nas"), ("cache", "web1")}, ""),
        ("restart api wherever it is still on 2.3", {("api", "web2")}, "on version 2.3"),
        ("restart the unhealthy ones", {("photos", "nas")}, ""),
        ("restart cache on all hosts that have it", {("cache", "nas"), ("cache", "web1")}, ""),
        ("stop ollama but not jupyter", {("ollama", "gpu")}, "without jupyter"),
    ],
)
async def test_exceptions_and_conditions_become_an_exact_list(order: str, wanted: Targets, decided: str) -> None:
    reply = await ask(order)

    assert targets(reply) == wanted, reply.error
    assert decided in shown(reply)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ("restart db unless it is healthy", "Nothing to restart"),
        ("if db is down, restart grafana", "db is running on nas"),
        ("make sure db is running", "Nothing to start"),
    ],
)
async def test_a_condition_that_does_not_hold_changes_nothing(order: str, says: str) -> None:
    reply = await ask(order)

    assert not reply.proposals and says in reply.answer and reply.exit_code == 0


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ("restart grafana every night at 3", "every night"),
        ("restart grafana in 45 minutes", "minutes"),
        ("restart grafana tomorrow", "tomorrow"),
        ("stop jupyter when ollama is done", "when"),
        ("stop everything on gpu except the slow one", "except"),
        ("stop jupyter or ollama", "or"),
        ("if nobody uses jupyter stop it", "if"),
        ("my boss said stop jupyter", "said"),
        ("stop jupyter and then frobnicate ollama", "frobnicate"),
        ("pull nginx:1.30 on web1 if web is down", "if web is down"),
        ("stop web1 and web on web2 on web1", "web"),
    ],
)
async def test_a_refusal_names_the_word_that_is_not_understood(order: str, word: str) -> None:
    reply = await ask(order)

    assert not reply.proposals and reply.exit_code in (NotUnderstood.exit_code, NotFound.exit_code)
    assert word in str(reply.error)


@pytest.mark.parametrize(
    ("order", "target", "ignored"),
    [
        ("restart grafana please, the dashboards hang", ("grafana", "nas"), "the dashboards hang"),
        ("grafana is slow again, so restart it", ("grafana", "nas"), "grafana is slow again"),
        ("stop ollama because the room is getting hot", ("ollama", "gpu"), "because the room is getting hot"),
        ("stop jupyter, nobody uses it any more", ("jupyter", "gpu"), "nobody uses it any more"),
        ("please stop jupyter to free some memory", ("jupyter", "gpu"), "to free some memory"),
    ],
)
async def test_a_remark_is_set_aside_and_shown(order: str, target: tuple[str, str], ignored: str) -> None:
    reply = await ask(order)

    assert targets(reply) == {target} and ignored in shown(reply), reply.error
    assert all(one.covered for one in reply.proposals)


@pytest.mark.parametrize(
    ("order", "tool", "target"),
    [
        ("stoppe grafana", "stop_container", ("grafana", "nas")),
        ("starte jupyter auf gpu bitte neu", "restart_container", ("jupyter", "gpu")),
        ("fahr ollama herunter", "stop_container", ("ollama", "gpu")),
        ("kannst du grafana neu starten?", "restart_container", ("grafana", "nas")),
        ("starte worker, falls er gestoppt ist", "start_container", ("worker", "web1")),
        ("lösche den container certbot", "remove_container", ("certbot", "web2")),
        ("fahr den worker auf web1 bitte wieder hoch", "start_container", ("worker", "web1")),
        ("schalte jupyter ab, ich brauch ihn heute nicht mehr", "stop_container", ("jupyter", "gpu")),
        ("ich möchte, dass du grafana neu startest", "restart_container", ("grafana", "nas")),
        ("arrête ollama, s'il te plaît", "stop_container", ("ollama", "gpu")),
        ("redémarre grafana sur nas", "restart_container", ("grafana", "nas")),
        ("le worker est arrêté, relance-le", "restart_container", ("worker", "web1")),
        ("coupe jupyter, j'en ai plus besoin", "stop_container", ("jupyter", "gpu")),
        ("supprime le conteneur certbot", "remove_container", ("certbot", "web2")),
        ("detén jupyter en gpu", "stop_container", ("jupyter", "gpu")),
        ("reinicia grafana por favor", "restart_container", ("grafana", "nas")),
        ("por favor para jupyter", "stop_container", ("jupyter", "gpu")),
        ("el worker está parado, arráncalo", "start_container", ("worker", "web1")),
        ("borra el contenedor certbot", "remove_container", ("certbot", "web2")),
    ],
)
async def test_orders_in_other_languages(order: str, tool: str, target: tuple[str, str]) -> None:
    reply = await ask(order)

    assert [one.tool for one in reply.proposals] == [tool] and targets(reply) == {target}, reply.error
    assert "read from" in shown(reply)


@pytest.mark.parametrize(
    "order",
    [
        "stoppe grafana nicht",
        "stoppe grafana morgen",
        "starte grafana jede nacht neu",
        "n'arrête pas grafana",
        "arrête grafana demain",
        "no detengas grafana",
        "para grafana si falla",
        "baja el contenedor grafana",
        "mach den kram weg",
    ],
)
async def test_what_turns_an_order_counts_in_other_languages_too(order: str) -> None:
    reply = await ask(order)

    assert not reply.proposals and reply.exit_code == NotUnderstood.exit_code


@pytest.mark.parametrize(
    ("question", "tool", "host"),
    [
        ("welche container laufen auf gpu?", "list_containers", "gpu"),
        ("wie viel speicher ist auf nas frei", "get_host_resources", "nas"),
        ("zeige die logs von grafana", "get_container_logs", "nas"),
        ("quels conteneurs tournent sur nas ?", "list_containers", "nas"),
        ("¿qué contenedores están parados?", "list_containers", ""),
        ("¿cuánta memoria libre queda en web2?", "get_host_resources", "web2"),
        ("seit wann läuft web1 schon?", "get_host_info", "web1"),
        ("wie viel platz ist auf nas noch frei?", "get_host_resources", "nas"),
        ("montre les 20 dernières lignes du journal d'api sur web2", "get_container_logs", "web2"),
        ("y a-t-il des mises à jour pour web ?", "list_updates", ""),
        ("dame los registros para web en web1", "get_container_logs", "web1"),
        ("¿cuánta RAM gasta jupyter?", "get_container_stats", ""),
    ],
)
async def test_questions_in_other_languages(question: str, tool: str, host: str) -> None:
    reply = await ask(question)

    assert {call.tool for call in reply.calls} == {tool}
    assert not host or {call.host for call in reply.calls} == {host}


async def test_a_misspelled_verb_needs_an_answer_of_its_own() -> None:
    reply = await ask("restrat grafana")

    [proposal] = reply.proposals
    assert (proposal.tool, proposal.hosts) == ("restart_container", ["nas"])
    assert not proposal.covered and "restrat" in proposal.why


@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("run nginx:1.27 as page on web2 with port 8081 to 80", {"ports": ["8081:80"]}),
        ("run nginx:1.27 as page on web2, port 8081 outside, 80 inside", {"ports": ["8081:80"]}),
        ("run nginx:1.27 as page on web1 in the frontend network", {"network": "frontend"}),
        ("run nginx:1.27 as page on web1 with network frontend", {"network": "frontend"}),
    ],
)
async def test_options_in_words(order: str, options: dict[str, object]) -> None:
    reply = await ask(order)

    [proposal] = reply.proposals
    assert options.items() <= proposal.arguments.items()


@pytest.mark.parametrize("order", ["stop the containers on port 9999", "restart all that use the mongo image"])
async def test_a_filter_that_fits_nothing_changes_nothing(order: str) -> None:
    reply = await ask(order)

    assert reply.proposals == []
    assert "Nothing to" in reply.answer


@pytest.mark.parametrize("order", ["reboot the nas", "shut down nas", "stop web1", "restart both web machines"])
async def test_a_host_is_never_taken_for_a_container(order: str) -> None:
    reply = await ask(order)

    assert not reply.proposals and isinstance(reply.error, NotFound | NotUnderstood)


@pytest.mark.parametrize("order", ["stop the container all on gpu", "stop the container called everything"])
async def test_a_container_called_all_is_not_all_of_them(order: str) -> None:
    reply = await ask(order)

    assert isinstance(reply.error, NotFound)
    assert reply.proposals == []


@pytest.mark.parametrize(
    ("order", "covered"),
    [
        ("remove every container that exited with code 1", False),
        ("remove the stopped containers on gpu", False),
        ("remove the volumes on nas that nothing uses", False),
        ("remove old-trainer", True),
        ("stop everything on gpu", True),
    ],
)
async def test_a_yes_in_advance_covers_no_removal_of_what_was_not_named(order: str, *, covered: bool) -> None:
    reply = await ask(order)

    assert {one.covered for one in reply.proposals} == {covered}


@pytest.mark.parametrize("order", ["stop PLEX", "restart homeassistant", "stop projector"])
async def test_what_does_not_exist_is_not_proposed(order: str) -> None:
    reply = await ask(order)

    assert not reply.proposals and isinstance(reply.error, NotFound)
