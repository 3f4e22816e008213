// The page of a fleet. In a browser it talks to the host that served it; inside an MCP client, to the client.
// All text from hosts is set as text, never as HTML: the content security policy forbids anything else.

const SESSION = "anvyl.session";
const THEME = "anvyl.theme";
const SIGN_IN = "#sign-in=";
const SILENT_SECONDS = 40;
const SAMPLES = 120;
const MOST_APP_HEIGHT = 720;
const IN_APP = document.documentElement.hasAttribute("data-app");
const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- small helpers

function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else if (key in made && key !== "role" && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null && child !== ""));
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, text) {
  if (node.className !== text) node.className = text;
}

/** Make the children of a node the given elements, moving as few as possible. */
function arrange(parent, children) {
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const percent = (value) => (typeof value === "number" ? `${value < 9.95 ? Math.round(value * 10) / 10 : Math.round(value)} %` : "–");

function size(bytes) {
  if (typeof bytes !== "number") return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = bytes > 0 ? Math.min(Math.floor(Math.log2(bytes) / 10), 4) : 0;
  const value = bytes / 1024 ** step;
  return `${value < 10 && step ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

function age(time) {
  const then = Date.parse(time);
  if (!time || Number.isNaN(then)) return "";
  const seconds = Math.max(0, (Date.now() - then) / 1000);
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= length) return `${plural(Math.floor(seconds / length), unit)} ago`;
  }
  return "just now";
}

const clock = (time) => (Number.isNaN(Date.parse(time)) ? String(time) : new Date(time).toLocaleString());
const seen = () => new Promise((done) => (document.hidden ? document.addEventListener("visibilitychange", () => done(seen()), { once: true }) : done()));
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/** A text with `code` and **bold** in it, as nodes. */
function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part, index) => (index % 2 === 0 ? part : part[0] === "`" ? el("code", {}, part.slice(1, -1)) : el("b", {}, part.slice(2, -2))));
}

const cellsOf = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

/** What a model writes, as blocks: paragraphs, lists, code and tables. Links stay text. */
function prose(text) {
  const blocks = [];
  let kind = "", lines = [];
  const end = () => {
    if (kind === "code") blocks.push(el("pre", { class: "code", tabIndex: 0 }, lines.join("\n")));
    else if (kind === "table") blocks.push(gridOf(lines.map(cellsOf)));
    else if (lines.length) blocks.push(el("p", { class: "text", dir: "auto" }, ...inline(lines.map((line) => line.replace(/^#{1,6} +(.*)$/, "**$1**").replace(/^(\s*)[*+-] +/, "$1• ")).join("\n"))));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const fence = /^\s*```/.test(line);
    const next = kind === "code" ? (fence ? "" : "code") : fence ? "code" : /^\s*\|/.test(line) ? "table" : line.trim() ? "text" : "";
    if (next !== kind) end();
    if (next && !fence) lines.push(line);
    kind = next;
  }
  end();
  return blocks;
}

function gridOf(rows) {
  const [head, ...body] = rows.filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  return el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { scope: "col" }, ...inline(cell))))),
    el("tbody", {}, ...body.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, ...inline(cell))))))));
}

/** What is outside an open dialog is neither seen nor read out, so notes go into it. */
function placeNotes() {
  const open = document.querySelector("#confirm[open]") ?? document.querySelector("dialog[open]") ?? document.body;
  if ($("notes").parentElement !== open) open.append($("notes"));
}

function note(text) {
  placeNotes();
  const shown = el("p", {}, ...inline(text));
  $("notes").append(shown);
  while ($("notes").children.length > 4) $("notes").firstChild.remove();
  setTimeout(() => shown.remove(), 5000 + 60 * text.length);
}

function spark(values, most = 0, label = "") {
  const box = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  box.setAttribute("viewBox", "0 0 100 30");
  box.setAttribute("preserveAspectRatio", "none");
  box.setAttribute("class", "spark");
  if (label) box.setAttribute("role", "img"), box.setAttribute("aria-label", label);
  else box.setAttribute("aria-hidden", "true");
  const under = document.createElementNS(box.namespaceURI, "path");
  under.setAttribute("class", "under");
  const line = document.createElementNS(box.namespaceURI, "path");
  box.append(under, line);
  box.draw = (next, top) => {
    const highest = Math.max(top, ...next, 1e-9);
    const last = Math.max(next.length - 1, 1);
    const points = next.map((value, index) => `${((index / last) * 100).toFixed(1)},${(29 - (value / highest) * 28).toFixed(1)}`);
    line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    under.setAttribute("d", points.length > 1 ? `M0,30L${points.join("L")}L100,30Z` : "");
  };
  box.draw(values, most);
  return box;
}

// ---------------------------------------------------------------- the host that served the page

class Refused extends Error {
  constructor(status, error) {
    super([error?.message, error?.hint].filter(Boolean).join(". ") || `the server answered ${status}`);
    this.status = status;
  }
}

/** The server-sent events of a response. */
async function* events(response, alive = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    alive();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}

const http = {
  key: () => localStorage.getItem(SESSION),

  async fetch(method, path, body, signal) {
    const headers = { "X-Anvyl-Session": this.key() ?? "" };
    if (!headers["X-Anvyl-Session"]) delete headers["X-Anvyl-Session"];
    if (method !== "GET") headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method, headers, signal, cache: "no-store", redirect: "error", credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.ok) return response;
    let error = null;
    try { error = (await response.json()).error; } catch { /* not ours */ }
    const refused = new Refused(response.status, error);
    if (response.status === 401 && path !== "/session") signedOut(refused.message);
    throw refused;
  },

  async json(method, path, body, signal) {
    return (await this.fetch(method, path, body, signal)).json();
  },

  call(tool, args, host, approve = false, signal = undefined) {
    return this.json("POST", "/agent/call", { tool, arguments: args, host, approve }, signal);
  },

  decide(id, approve) {
    return this.json("POST", `/agent/approvals/${encodeURIComponent(id)}`, { approve });
  },

  async *ask(query, conversation, signal) {
    const response = await this.fetch("POST", "/agent/process/stream", { query, conversation }, signal);
    yield* events(response);
  },

  /** Follow the fleet until signed out, through restarts of the server. */
  async watch(take) {
    for (let wait = 0.5; this.key(); ) {
      const stop = new AbortController();
      watching = stop;
      let timer = 0;
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), SILENT_SECONDS * 1000);
      };
      try {
        alive();
        const response = await this.fetch("GET", "/agent/fleet", undefined, stop.signal);
        take.live(true);
        for await (const [name, data] of events(response, alive)) {
          wait = 0.5;
          take[name]?.(data);
        }
      } catch (error) {
        if (error.status === 401) return;
      } finally {
        clearTimeout(timer);
      }
      if (document.hidden) await seen();
      else {
        take.live(false);
        await sleep(wait);
        wait = Math.min(wait * 1.6, 8);
      }
    }
  },
};
let watching = null;

// ---------------------------------------------------------------- an MCP client that shows the page

const client = {
  next: 1,
  waiting: new Map(),
  tools: new Set(),

  send(message) {
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  },

  request(method, params) {
    const id = this.next++;
    this.send({ id, method, params });
    return new Promise((done, failed) => this.waiting.set(id, { done, failed }));
  },

  receive({ source, data }) {
    if (source !== window.parent || data?.jsonrpc !== "2.0") return;
    if (data.method === undefined) {
      const asked = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) asked?.failed(new Error(data.error.message));
      else asked?.done(data.result);
    } else if (data.method === "ui/notifications/tool-result") this.take(data.params);
    else if (data.method === "ui/notifications/host-context-changed") this.adopt(data.params);
    else if (data.id !== undefined) {
      if (data.method === "ui/resource-teardown") this.ended = true;
      const known = ["ui/resource-teardown", "ping"].includes(data.method);
      this.send({ id: data.id, ...(known ? { result: {} } : { error: { code: -32601, message: "not supported" } }) });
    }
  },

  adopt(context) {
    if (context?.theme) document.documentElement.dataset.theme = context.theme;
  },

  /** The entries of a result, one for each host. */
  calls(result, tool) {
    const hosts = result?.structuredContent?.hosts ?? {};
    const calls = Object.entries(hosts).map(([host, one]) => ({ tool, host, ok: one.ok, result: one.result, error: one.error }));
    const text = (result?.content ?? []).map((part) => part.text ?? "").join("\n");
    if (!calls.length && result?.isError) calls.push({ tool, host: "", ok: false, error: text });
    return calls;
  },

  take(result) {
    for (const call of this.calls(result, "")) {
      if (!call.ok) continue;
      if (call.result?.updates) {
        // The panel is there because somebody asked for updates.
        this.tools.add("update_container");
        show.state = "updates";
        takeUpdates(call);
      } else if (call.result?.containers) this.show(call);
      else if (call.result?.memory) this.taken.usage({ name: call.host, resources: call.result, containers: {} });
    }
  },

  show(call) {
    const entry = call.ok
      ? { status: "ok", containers: call.result.containers, more: call.result.more ?? 0, problem: "" }
      : { status: `unreachable: ${call.error}`, containers: null, more: 0, problem: "" };
    this.taken.host({ name: call.host, url: "", tags: [], hint: "", version: "", tools: [...this.tools], ...entry });
  },

  async call(tool, args, host, approve = false) {
    if (!approve && CHANGES[tool]) {
      const summary = `${CHANGES[tool].verb.toLowerCase()} ${args.name} on ${host}`;
      return { calls: [], approval: { id: "", calls: [{ tool, arguments: args, hosts: [host], summary }] } };
    }
    const result = await this.request("tools/call", { name: tool, arguments: { ...args, host } });
    const calls = this.calls(result, tool);
    const failed = calls.find((one) => !one.ok);
    if (CHANGES[tool]) this.look(this.taken).catch(() => {});
    return { calls, response: failed ? failed.error : "", error: failed ? { message: failed.error } : null };
  },

  async watch(take) {
    this.taken = take;
    window.addEventListener("message", (event) => this.receive(event));
    new ResizeObserver(() => {
      // A taller frame would put dialogs out of sight.
      const height = Math.min(Math.ceil(document.documentElement.getBoundingClientRect().height), MOST_APP_HEIGHT);
      this.send({ method: "ui/notifications/size-changed", params: { width: innerWidth, height } });
    }).observe(document.documentElement);
    const started = await this.request("ui/initialize", {
      appInfo: { name: "anvyl", version: "1" }, appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] }, protocolVersion: "2026-01-26",
    });
    this.adopt(started.hostContext);
    this.send({ method: "ui/notifications/initialized", params: {} });
    if (!started.hostCapabilities?.serverTools) return;
    ["start_container", "stop_container", "restart_container", "get_container_logs", "get_container_info"].forEach((one) => this.tools.add(one));
    while (!this.ended) {
      if (!document.hidden) await this.look(take).catch((error) => note(error.message));
      await sleep(15);
    }
  },

  async look(take) {
    const found = this.calls(await this.request("tools/call", { name: "list_containers", arguments: { all: true } }), "list_containers");
    take.hosts({ hosts: found.map((call) => call.host), local: "", alone: false });
    found.filter((call) => call.host).forEach((call) => this.show(call));
    const busy = this.calls(await this.request("tools/call", { name: "get_host_resources", arguments: {} }), "get_host_resources");
    busy.filter((call) => call.ok).forEach((call) => take.usage({ name: call.host, resources: call.result, containers: {} }));
    take.live(true);
  },
};

const backend = IN_APP ? client : http;

// ---------------------------------------------------------------- what is known

const fleet = { order: [], hosts: new Map(), local: "", approvals: [], notices: null };
const show = { words: "", state: "all" };
const CHANGES = {
  start_container: { verb: "Start", doing: "starting" },
  stop_container: { verb: "Stop", doing: "stopping" },
  restart_container: { verb: "Restart", doing: "restarting" },
  remove_container: { verb: "Remove", doing: "removing", danger: true },
  update_container: { verb: "Update", doing: "updating" },
  start_stack: { verb: "Start" },
  stop_stack: { verb: "Stop" },
  restart_stack: { verb: "Restart" },
};

function entry(name) {
  if (!fleet.hosts.has(name)) {
    fleet.hosts.set(name, { name, look: null, resources: null, usage: {}, history: { cpu: [], memory: [] }, past: new Map(), updates: new Map(), view: null });
  }
  return fleet.hosts.get(name);
}

const offers = (host, tool) => Boolean(fleet.hosts.get(host)?.look?.tools.includes(tool));
const isDown = (host) => host.look !== null && host.look.status !== "ok";

function kind(container) {
  if (container.health === "unhealthy" || container.problem || ["restarting", "dead"].includes(container.state)) return "trouble";
  if (container.state === "running") return container.health === "starting" ? "starting" : "running";
  return container.state === "paused" ? "paused" : "stopped";
}

const RANK = { trouble: 0, starting: 1, running: 1, paused: 2, stopped: 3 };
const byAttention = (one, other) => RANK[kind(one)] - RANK[kind(other)] || one.name.localeCompare(other.name);

function stackOf(container) {
  return container.stack ?? "";
}

const troubled = (containers) => containers.some((container) => kind(container) === "trouble");

function matches(host, container) {
  const found = kind(container);
  if (show.state === "updates" && !host.updates.has(container.name)) return false;
  if (show.state === "trouble" && found !== "trouble") return false;
  if (show.state === "running" && !["running", "starting"].includes(found) && container.state !== "running") return false;
  if (show.state === "stopped" && (container.state === "running" || container.state === "paused")) return false;
  const text = `${container.name} ${container.image} ${stackOf(container)} ${host.name} ${(host.look.tags ?? []).join(" ")} ${container.id}`.toLowerCase();
  return show.words.split(/\s+/).every((word) => text.includes(word));
}

// ---------------------------------------------------------------- drawing the fleet

function gauge(label) {
  const value = el("b", {}, "–");
  const drawing = label === "disk" ? el("span", { class: "meter" }, el("i")) : spark([]);
  const made = el("span", { class: "gauge" }, el("span", {}, label), value, drawing);
  return { made, value, drawing };
}

function hostView(host) {
  const id = `host-${fleet.order.indexOf(host.name)}-${Math.random().toString(36).slice(2, 8)}`;
  const view = {
    title: el("h2", { id, dir: "auto" }, host.name), dot: el("span", { class: "dot", "aria-hidden": "true" }), tag: el("span", { class: "tag" }),
    cpu: gauge("cpu"), memory: gauge("memory"), disk: gauge("disk"), why: el("p", { class: "why", hidden: true }), list: el("div"), rows: new Map(), stacks: new Map(),
  };
  view.gauges = el("div", { class: "gauges" }, view.cpu.made, view.memory.made, view.disk.made);
  view.made = el("section", { class: "host card", "aria-labelledby": id },
    el("header", {}, el("div", { class: "who" }, view.dot, view.title, view.tag), view.gauges), view.why, view.list);
  host.view = view;
  return view;
}

function drawGauges(host) {
  const { view, resources } = host;
  if (!view || !resources) return;
  const disk = [...(resources.disks ?? [])].sort((one, other) => other.percent - one.percent)[0];
  const figures = [[view.cpu, resources.cpu_percent, 90], [view.memory, resources.memory?.percent, 90], [view.disk, disk?.percent, 90]];
  for (const [{ made, value, drawing }, number, high] of figures) {
    setText(value, typeof number === "number" ? `${Math.round(number)} %` : "–");
    setClass(made, number >= high ? "gauge high" : "gauge");
    if (drawing.draw) drawing.draw(made === view.cpu.made ? host.history.cpu : host.history.memory, 100);
    else drawing.firstChild.style.width = `${Math.min(number ?? 0, 100)}%`;
  }
  view.memory.made.title = resources.memory ? `${size(resources.memory.used)} of ${size(resources.memory.total)}` : "";
  view.disk.made.title = disk ? `${disk.mount}: ${size(disk.used)} of ${size(disk.total)}` : "";
}

function rowView(host, name) {
  const open = () => {
    if (IN_APP) openDetail(host.name, name);
    else location.hash = `#/${encodeURIComponent(host.name)}/${encodeURIComponent(name)}`;
  };
  const row = {
    dot: el("span", { class: "dot", "aria-hidden": "true" }), open: el("button", { type: "button", dir: "auto", onclick: open }, name), badge: el("button", { type: "button", class: "badge", hidden: true, "aria-label": `Update ${name}`, onclick: () => change("update_container", host.name, name) }, "update"),
    image: el("span", { class: "image" }), status: el("span", { class: "status" }), ports: el("span", { class: "ports" }), used: el("span", { class: "used" }), actions: el("span", { class: "actions" }), drawn: "",
  };
  row.made = el("li", {}, row.dot, el("div", { class: "name" }, row.open, " ", row.badge, row.image), row.status, row.ports, row.used, row.actions);
  return row;
}

const mayUpdate = (host) => offers(host, "update_container") && rights.has("operate");

/** Changes of containers that are being made: host/name → what is done, since when. */
const busy = new Map();
const elapsed = (since) => (Date.now() - since < 2000 ? "" : `${Math.floor((Date.now() - since) / 1000)} s`);

async function whileBusy(tool, host, name, work) {
  const key = `${host}/${name}`;
  busy.set(key, { what: CHANGES[tool].doing ?? "working", since: Date.now() });
  draw();
  const timer = setInterval(draw, 1000);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    busy.delete(key);
    draw();
  }
}

function actionsFor(host, container) {
  const wanted = ["running", "restarting"].includes(container.state) ? ["restart_container", "stop_container"] : container.state === "paused" ? [] : ["start_container"];
  return wanted.filter((tool) => offers(host.name, tool) && rights.has("operate"));
}

function actionButton(host, container, tool) {
  const { verb } = CHANGES[tool];
  return el("button", { type: "button", "aria-label": `${verb} ${container.name}`, onclick: (event) => change(tool, host.name, container.name, event.currentTarget) }, verb);
}

function drawRow(host, container) {
  const { view } = host;
  if (!view.rows.has(container.name)) view.rows.set(container.name, rowView(host, container.name));
  const row = view.rows.get(container.name);
  const tools = actionsFor(host, container);
  const update = host.updates.get(container.name);
  const doing = busy.get(`${host.name}/${container.name}`);
  const drawn = JSON.stringify([container, tools, update, doing && Math.floor((Date.now() - doing.since) / 1000)]);
  if (row.drawn !== drawn) {
    row.drawn = drawn;
    const found = kind(container);
    setClass(row.made, found === "trouble" ? "trouble" : "");
    setClass(row.dot, `dot ${found}`);
    setText(row.image, container.image);
    row.image.title = container.image;
    const problem = container.problem && !container.status.includes(container.problem) ? `${container.problem}: ` : "";
    setText(row.status, doing ? `${doing.what}… ${elapsed(doing.since)}` : `${problem}${container.status || container.state}`);
    setClass(row.status, doing ? "status doing" : found === "trouble" ? "status trouble" : "status");
    const ports = container.ports.filter((port) => port.includes("->")).join(", ");
    setText(row.ports, ports);
    row.ports.title = ports;
    row.badge.hidden = !update;
    if (update) {
      setText(row.badge, update.held === "failed" ? "update failed" : "update");
      row.badge.title = aboutUpdate(update).join(". ");
      row.badge.disabled = Boolean(doing) || !mayUpdate(host.name);
    }
    const buttons = [...row.actions.children];
    for (const button of buttons) button.disabled = Boolean(doing);
    if (buttons.map((button) => button.dataset.tool).join() !== tools.join()) {
      row.actions.replaceChildren(...tools.map((tool) => {
        const button = actionButton(host, container, tool);
        button.dataset.tool = tool;
        return button;
      }));
    }
  }
  drawUsed(host, container.name, container.state);
  return row.made;
}

function drawUsed(host, name, state) {
  const row = host.view?.rows.get(name);
  const usage = state === "running" ? host.usage[name] : null;
  if (row) setText(row.used, usage ? `${percent(usage[0])} · ${size(usage[1])}` : "");
}

function drawHost(host) {
  const view = host.view ?? hostView(host);
  const { look } = host;
  const down = isDown(host);
  setClass(view.made, down ? "host card down" : "host card");
  setClass(view.dot, `dot ${look === null ? "" : down ? "trouble" : look.problem ? "paused" : "running"}`);
  setText(view.tag, [host.name === fleet.local ? "this host" : "", ...(look?.tags ?? []).map((tag) => `@${tag}`)].filter(Boolean).join(" "));
  view.gauges.hidden = down;
  const [word, ...reason] = down ? look.status.split(":") : [""];
  const shown = (look?.containers ?? []).filter((container) => matches(host, container)).sort(byAttention);
  const empty = look?.containers && !look.containers.length && !look.problem;
  view.why.replaceChildren(...(down ? [el("b", {}, `Down: ${word}`), ...inline(`${reason.length ? `:${reason.join(":")}` : ""}.${look.hint ? ` ${sentence(look.hint)}` : ""}`)]
    : look?.problem ? [el("b", {}, "No containers: "), ...inline(look.problem)] : look === null ? ["asking…"] : empty ? ["No containers yet."] : []));
  view.why.hidden = !view.why.childNodes.length;
  const groups = new Map();
  for (const container of shown) {
    const stack = stackOf(container);
    groups.set(stack, [...(groups.get(stack) ?? []), container]);
  }
  const parts = [];
  for (const [stack, containers] of [...groups].sort(([one, first], [other, second]) => troubled(second) - troubled(first) || (one === "") - (other === ""))) {
    if (!view.stacks.has(stack)) {
      view.stacks.set(stack, { list: el("ul", { class: "rows", role: "list", "aria-label": stack ? `Stack ${stack} on ${host.name}` : `Containers on ${host.name}` }), title: el("div", { class: "stack" }, el("h3", {}, stack ? `Stack ${stack}` : "Other containers"), el("small"), el("span", { class: "actions" })) });
    }
    const { list, title } = view.stacks.get(stack);
    const running = containers.filter((container) => container.state === "running").length;
    setText(title.children[1], `${running} of ${containers.length} running`);
    drawStackActions(host, stack, title.lastChild, running);
    arrange(list, containers.map((container) => drawRow(host, container)));
    if (groups.size > 1 || stack) parts.push(title);
    parts.push(list);
  }
  if (look?.more) parts.push(el("p", { class: "more" }, `and ${look.more} more`));
  arrange(view.list, parts);
  const names = new Set((look?.containers ?? []).map((container) => container.name));
  for (const name of view.rows.keys()) if (!names.has(name)) view.rows.delete(name);
  drawGauges(host);
  return { view, shown: shown.length };
}

function drawStackActions(host, stack, box, running) {
  const wanted = !stack || !rights.has("operate") ? [] : running ? ["restart_stack", "stop_stack"] : ["start_stack"];
  const tools = wanted.filter((tool) => offers(host.name, tool));
  if (box.dataset.tools === tools.join()) return;
  box.dataset.tools = tools.join();
  box.replaceChildren(...tools.map((tool) => el("button", { type: "button", "aria-label": `${CHANGES[tool].verb} stack ${stack}`, onclick: (event) => change(tool, host.name, stack, event.currentTarget) }, CHANGES[tool].verb)));
}

const STATES = [["all", "All"], ["trouble", "Attention"], ["running", "Running"], ["stopped", "Stopped"], ["updates", "Updates"]];

function drawStates(counts) {
  const box = $("states");
  if (!box.children.length) {
    for (const [state, label] of STATES) {
      box.append(el("button", { type: "button", "data-state": state, "aria-pressed": "false", onclick: () => { show.state = state; draw(); } }, label));
    }
  }
  [...box.children].forEach((button, index) => {
    const [state, label] = STATES[index];
    setText(button, `${label} ${counts[state]}`);
    button.hidden = state === "updates" && !counts.updates && show.state !== "updates";
    button.setAttribute("aria-pressed", String(show.state === state));
    setClass(button, state === "trouble" && counts.trouble ? "bad" : "");
  });
}

let drawing = 0;
/** Draw everything in the next frame, once however often it is asked for. */
function draw() {
  drawing ||= requestAnimationFrame(drawNow);
}

function drawNow() {
  drawing = 0;
  const hosts = fleet.order.map(entry);
  const counts = { all: 0, trouble: 0, running: 0, stopped: 0, updates: 0 };
  for (const host of hosts) {
    for (const container of host.look?.containers ?? []) {
      counts.all++;
      if (host.updates.has(container.name)) counts.updates++;
      if (kind(container) === "trouble") counts.trouble++;
      if (container.state === "running") counts.running++;
      else if (container.state !== "paused") counts.stopped++;
    }
  }
  const filtering = show.words || show.state !== "all";
  const rank = (host) => (isDown(host) ? 0 : (host.look?.containers ?? []).some((one) => kind(one) === "trouble") ? 1 : 2);
  const drawn = [...hosts].sort((one, other) => rank(one) - rank(other) || fleet.order.indexOf(one.name) - fleet.order.indexOf(other.name)).map(drawHost);
  let found = 0;
  const visible = drawn.filter(({ shown }, index) => { found += shown; return !filtering || shown; });
  arrange($("hosts"), visible.map(({ view }) => view.made));
  const down = hosts.filter(isDown).length;
  $("summary").replaceChildren(el("b", {}, plural(hosts.length, "host")), ...(down ? [", ", el("b", { class: "bad" }, `${down} down`)] : []), el("span", { class: "minor" }, ` · ${counts.running} running`),
    ...(counts.trouble ? [" · ", el("b", { class: "bad" }, `${counts.trouble} need${counts.trouble === 1 ? "s" : ""} attention`)] : []));
  drawStates(counts);
  $("nothing").hidden = !filtering || found > 0;
  setText($("nothing"), "Nothing matches. Clear the search, or show all.");
  setText($("count"), filtering ? `${plural(found, "container")} shown` : "");
  drawDetailHead();
}

const take = {
  hosts(data) {
    fleet.local = data.local;
    fleet.order = data.hosts;
    data.hosts.forEach(entry);
    for (const name of [...fleet.hosts.keys()]) if (!data.hosts.includes(name)) fleet.hosts.delete(name);
    draw();
  },
  host(data) {
    const host = entry(data.name);
    if (!fleet.order.includes(data.name)) fleet.order.push(data.name);
    host.look = data;
    draw();
    $("updates").hidden = IN_APP || !fleet.order.some((name) => offers(name, "list_updates"));
  },
  usage(data) {
    const host = entry(data.name);
    if (data.resources.memory) {
      host.resources = data.resources;
      if (!host.asked) loadPast(host);
      remember(host.history.cpu, data.resources.cpu_percent);
      remember(host.history.memory, data.resources.memory.percent);
      drawGauges(host);
    }
    if (Object.keys(data.containers).length) host.usage = data.containers;
    for (const [name, figures] of Object.entries(data.containers)) {
      if (!host.past.has(name)) host.past.set(name, { cpu: [], memory: [] });
      remember(host.past.get(name).cpu, figures[0]);
      remember(host.past.get(name).memory, figures[1]);
    }
    for (const container of host.look?.containers ?? []) drawUsed(host, container.name, container.state);
    detail.usage?.();
  },
  approvals(data) {
    fleet.approvals = data.approvals;
    drawWaiting();
  },
  notices(data) {
    fleet.notices = data;
    drawNotices();
  },
  live(isLive) {
    setText($("live"), isLive ? "Live" : "Connection lost, trying again…");
    setClass($("live"), isLive ? "live" : "live lost");
  },
};

function remember(list, value) {
  list.push(value ?? 0);
  if (list.length > SAMPLES) list.shift();
}

/** The usage of the last day, from a host that keeps it, in place of what the page has seen since it was opened. */
async function loadPast(host) {
  host.asked = true;
  if (IN_APP || !offers(host.name, "get_usage_history")) return;
  try {
    const answer = await backend.call("get_usage_history", { since: "24h" }, host.name);
    const points = pointsOf(answer.calls[0]?.result).slice(-SAMPLES / 2);
    if (points.length > 1) {
      host.history.cpu.unshift(...points.map((point) => point.cpu_percent ?? 0));
      host.history.memory.unshift(...points.map((point) => (100 * (point.memory ?? 0)) / host.resources.memory.total));
      drawGauges(host);
    }
  } catch { /* what the page has seen is enough */ }
}

const pointsOf = (result) => result?.series ?? [];

// ---------------------------------------------------------------- changes and consent

let rights = new Set(IN_APP ? ["read", "operate"] : []);

/** Ask a person; resolves to true or false. */
function confirm({ title, lines, yes, danger }) {
  setText($("confirm-title"), title);
  $("confirm-body").replaceChildren(...lines.filter(Boolean).map((line) => el("p", {}, line)));
  setText($("confirm-yes"), yes);
  setClass($("confirm-yes"), danger ? "danger" : "primary");
  const dialog = $("confirm");
  dialog.returnValue = "";
  dialog.showModal();
  placeNotes();
  $("confirm-no").focus();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

/** Approvals that this tab is asking about in a dialog, so that they are not shown twice. */
const asked = new Set();

/** Lines about an update that `list_updates` found. */
function aboutUpdate(row) {
  return [`${row.current} → ${row.available}${row.change ? ` (${row.change})` : ""}${row.published ? `, published ${age(row.published)}` : ""}`, sentence(row.note ?? ""), row.notes && `Release notes: ${row.notes}`].filter(Boolean);
}

const AFTER_UPDATE = "The new one is watched until it is healthy, or for two minutes. If it fails, the old one comes back.";

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

async function change(tool, host, name, button) {
  const { verb, danger } = CHANGES[tool];
  const update = tool === "update_container" ? fleet.hosts.get(host)?.updates.get(name) : null;
  // A person who asks for an update here saw when it was published.
  const args = update?.held === "age" ? { min_age: "0" } : {};
  if (button) button.disabled = true;
  try {
    const answer = await backend.call(tool, { name, ...args }, host, tool === "start_container");
    if (!answer.approval) return report(answer, `${verb}: ${name} on ${host}`);
    const [held] = answer.approval.calls;
    asked.add(answer.approval.id);
    drawWaiting();
    const agreed = await confirm({
      title: `${sentence(held.summary ?? `${verb} ${name} on ${host}`)}?`,
      lines: [...(held.details ?? []), ...(update ? aboutUpdate(update) : []), tool === "update_container" && AFTER_UPDATE, held.why, held.untrusted && `proposed after reading ${held.untrusted}`], yes: verb, danger,
    });
    if (!agreed) return IN_APP ? undefined : await backend.decide(answer.approval.id, false);
    const make = () => (IN_APP ? backend.call(tool, { name, ...args }, host, true) : backend.decide(answer.approval.id, true));
    try {
      report(await whileBusy(tool, host, name, make), `${verb}: ${name} on ${host}`);
    } finally {
      if (update) await lookAgain(host, name);
    }
  } catch (error) {
    note(error.message);
  } finally {
    if (button) button.disabled = false;
  }
}

function report(answer, fallback) {
  const failed = answer.calls?.find((call) => !call.ok);
  note(failed?.error || answer.response || answer.error?.message || fallback);
}

function drawWaiting() {
  const approvals = fleet.approvals.filter((held) => !asked.has(held.id));
  $("waiting").hidden = !approvals.length;
  setText($("waiting-count"), String(approvals.length));
  setText(document.querySelector('#phone [data-part="fleet"]'), approvals.length ? `Hosts · ${approvals.length} waiting` : "Hosts");
  const known = new Map([...$("waiting-list").children].map((item) => [item.dataset.id, item]));
  arrange($("waiting-list"), approvals.map((held) => known.get(held.id) ?? waitingItem(held)));
  document.title = approvals.length ? `(${approvals.length}) Anvyl` : "Anvyl";
}

const describe = (call) => sentence(call.summary || `${call.tool} on ${call.hosts.join(", ")}`);

function waitingItem(held) {
  const item = el("li", { "data-id": held.id },
    el("div", { class: "what" }, ...held.calls.flatMap((call) => [el("div", {}, describe(call)), ...(call.details ?? []).map((line) => el("small", {}, line)), ...[call.why, call.untrusted && `proposed after reading ${call.untrusted}`].filter(Boolean).map((line) => el("small", {}, line))]),
      el("small", {}, `asked by ${held.asker}: “${held.question}”`)),
    decisionButtons(held));
  return item;
}

function decisionButtons(held, after = () => {}) {
  const what = held.calls.map(describe).join("; ");
  const decide = async (event, approve) => {
    const box = event.currentTarget.parentElement;
    [...box.children].forEach((button) => { button.disabled = true; });
    if (approve) setText(event.currentTarget, "Working…");
    try {
      const answer = await backend.decide(held.id, approve);
      if (approve) report(answer, "done");
      after(answer, approve);
    } catch (error) {
      note(error.message);
      setText(box.lastChild, "Approve");
      after({ response: error.message }, approve);
    }
  };
  return el("div", { class: "buttons" },
    el("button", { type: "button", "aria-label": `Deny: ${what}`, onclick: (event) => decide(event, false) }, "Deny"),
    el("button", { type: "button", class: held.calls.some((call) => CHANGES[call.tool]?.danger ?? /^(remove|prune)/.test(call.tool)) ? "danger" : "primary", "aria-label": `Approve: ${what}`, onclick: (event) => decide(event, true) }, "Approve"));
}

// ---------------------------------------------------------------- notices

function drawNotices() {
  const { watching, checked, standby_for: other, problems, past } = fleet.notices;
  const loud = problems.filter((one) => !one.muted).length;
  $("bell").hidden = false;
  $("bell").setAttribute("aria-label", `Notices: ${problems.length ? plural(loud, "problem") : "no problems"}${loud < problems.length ? `, ${problems.length - loud} muted` : ""}`);
  setText($("bell-count"), loud ? String(loud) : "");
  setClass($("bell"), loud ? "plain bad" : "plain");
  const about = watching ? problems.length ? "" : "No problems."
    : other ? `${other} watches the hosts, and sends the notices. If it stops, this host does.`
      : checked ? `Nothing has watched the hosts since ${clock(checked)}. Start a watch: \`anvyl-mcp serve --watch\`.`
        : "Nothing watches the hosts while no one looks. Start a watch: `anvyl-mcp serve --watch`, and say where to send notices: `anvyl notify add phone`.";
  $("notices-about").replaceChildren(...inline(about));
  $("notices-list").replaceChildren(...[...problems, ...past].map(noticeItem));
}

function noticeItem(one) {
  const open = one.subject && fleet.hosts.has(one.host) ? () => { $("notices").hidePopover(); location.hash = `#/${encodeURIComponent(one.host)}/${encodeURIComponent(one.subject)}`; } : null;
  const about = [age(one.at), one.muted && "muted"].filter(Boolean).join(" · ");
  return el("li", { class: `${one.level}${one.muted ? " muted" : ""}` }, el("span", { class: `dot ${one.level === "problem" ? "trouble" : one.level === "recovered" ? "running" : ""}`, "aria-hidden": "true" }),
    el("div", {}, el("span", { class: "unseen" }, one.level === "problem" ? "Problem: " : one.level === "recovered" ? "Over: " : ""),
      open && !one.subject.startsWith("/") ? el("button", { type: "button", class: "link", onclick: open }, one.message) : one.message, el("small", { title: clock(one.at) }, about)));
}

// ---------------------------------------------------------------- one container

const detail = { host: "", name: "", tab: "", stop: null, usage: null, opener: null };

function openDetail(host, name) {
  Object.assign(detail, { host, name, tab: "", usage: null });
  setText($("detail-title"), name);
  const tabs = [["logs", "Logs", "get_container_logs"], ["usage", "Usage", "get_container_stats"], ["facts", "Details", "get_container_info"], ["history", "History", "list_history"]];
  const usable = tabs.filter(([, , tool]) => (tool === "get_container_stats" ? !IN_APP : offers(host, tool)));
  $("detail-tabs").replaceChildren(...usable.map(([tab, label]) => el("button", { type: "button", role: "tab", id: `tab-${tab}`, "data-tab": tab, "aria-controls": "detail-body", onclick: () => openTab(tab) }, label)));
  drawDetailHead();
  if (!$("detail").open) {
    detail.opener = document.activeElement;
    $("detail").showModal();
    placeNotes();
    $("detail-title").focus();
  }
  openTab(usable[0]?.[0] ?? "");
}

function containerOf(hostName, name) {
  return fleet.hosts.get(hostName)?.look?.containers?.find((one) => one.name === name) ?? null;
}

function drawDetailUpdate(host) {
  const update = host?.updates.get(detail.name);
  $("detail-update").hidden = !update;
  if (update) $("detail-update").replaceChildren(el("b", {}, update.held === "failed" ? "Update failed: " : "Update: "), aboutUpdate(update).join(". "));
}

function drawDetailHead() {
  if (!detail.name) return;
  const host = fleet.hosts.get(detail.host);
  const container = containerOf(detail.host, detail.name);
  const gone = host?.look?.containers && !container;
  const doing = busy.get(`${detail.host}/${detail.name}`);
  drawDetailUpdate(host);
  setText($("detail-state"), `${doing ? `${doing.what}… ${elapsed(doing.since)}` : container ? container.status || container.state : gone ? "gone" : "…"} · on ${detail.host}${container ? ` · ${container.image}` : ""}`);
  const tools = container ? actionsFor(host, container) : [];
  if (container && host.updates.has(container.name) && mayUpdate(detail.host)) tools.push("update_container");
  const drawn = [...$("detail-actions").children].map((button) => button.dataset.tool).join();
  if (drawn !== tools.join()) {
    $("detail-actions").replaceChildren(...tools.map((tool) => {
      const button = actionButton(host, container, tool);
      button.dataset.tool = tool;
      return button;
    }));
  }
  for (const button of $("detail-actions").children) button.disabled = Boolean(doing);
}

function openTab(tab) {
  detail.stop?.abort();
  detail.stop = new AbortController();
  Object.assign(detail, { tab, usage: null });
  for (const button of $("detail-tabs").children) {
    const chosen = button.dataset.tab === tab;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
  const body = $("detail-body");
  setClass(body, `detail-body ${tab}`);
  body.replaceChildren();
  body.setAttribute("role", "tabpanel");
  body.setAttribute("aria-labelledby", `tab-${tab}`);
  ({ logs: showLogs, usage: showUsage, facts: showFacts, history: showHistory })[tab]?.(body, detail.stop.signal);
}

async function ask1(tool, args, signal) {
  const answer = await backend.call(tool, args, detail.host, false, signal);
  const call = answer.calls.find((one) => one.host === detail.host) ?? answer.calls[0];
  if (!call?.ok) throw new Error(call?.error ?? "no answer");
  return call.result;
}

async function showLogs(body, signal) {
  const lines = el("pre", { tabIndex: 0, role: "log", "aria-label": `Logs of ${detail.name}`, "aria-live": "off" });
  const words = el("input", { type: "search", placeholder: "Filter lines", "aria-label": "Filter lines" });
  const state = el("small", { role: "status" }, "");
  const filter = () => {
    const wanted = words.value.toLowerCase();
    for (const line of lines.children) line.hidden = !line.textContent.toLowerCase().includes(wanted);
  };
  words.addEventListener("input", filter);
  body.append(el("div", { class: "line-tools" }, words, state), lines);
  let since = "";
  while (!signal.aborted) {
    try {
      const result = await ask1("get_container_logs", { name: detail.name, tail: since ? 5000 : 300, ...(since ? { since } : {}) }, signal);
      if (signal.aborted) return;
      since = result.next_since || since;
      const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
      const wanted = words.value.toLowerCase();
      lines.append(...result.lines.map((line) => el("div", { hidden: Boolean(wanted) && !line.toLowerCase().includes(wanted) }, line)));
      while (lines.children.length > 5000) lines.firstChild.remove();
      if (result.lines.length && atEnd) lines.scrollTop = lines.scrollHeight;
      setText(state, result.note || (lines.children.length ? "live" : "nothing logged yet"));
    } catch (error) {
      if (signal.aborted) return;
      setText(state, error.message);
      await sleep(2);
    }
    await sleep(IN_APP ? 5 : 1);
    await seen();
  }
}

function showUsage(body) {
  const cpu = spark([], 0, "cpu over time"), memory = spark([], 0, "memory over time");
  const now = [el("b", {}, "–"), el("b", {}, "–")];
  const span = [el("small", {}, ""), el("small", {}, "")];
  body.append(el("div", { class: "chart" }, el("p", {}, el("span", {}, "cpu ", now[0]), span[0]), cpu), el("div", { class: "chart" }, el("p", {}, el("span", {}, "memory ", now[1]), span[1]), memory));
  let past = [];
  const drawUsage = () => {
    const host = fleet.hosts.get(detail.host);
    const seen = host?.past.get(detail.name) ?? { cpu: [], memory: [] };
    const figures = host?.usage[detail.name];
    const running = containerOf(detail.host, detail.name)?.state === "running";
    setText(now[0], figures && running ? percent(figures[0]) : "not running");
    setText(now[1], figures && running ? `${size(figures[1])}${figures[2] ? ` of ${size(figures[2])}` : ""}` : "not running");
    const from = past.length ? "last 24 hours" : "since this page was opened";
    span.forEach((one) => setText(one, from));
    cpu.draw([...past.map((point) => point.cpu_percent ?? 0), ...seen.cpu], 5);
    memory.draw([...past.map((point) => point.memory ?? 0), ...seen.memory], 0);
  };
  detail.usage = drawUsage;
  drawUsage();
  if (offers(detail.host, "get_usage_history")) {
    ask1("get_usage_history", { name: detail.name, since: "24h" }, detail.stop.signal).then((result) => { past = pointsOf(result); drawUsage(); }, () => {});
  }
}

async function showFacts(body, signal) {
  try {
    const info = await ask1("get_container_info", { name: detail.name }, signal);
    const facts = [
      ["id", info.id], ["image", info.image], ["command", info.command], ["state", info.status], ["health", [info.health, info.health_output].filter(Boolean).join("\n")],
      ["created", info.created && `${clock(info.created)} (${age(info.created)})`], ["started", info.started_at && `${clock(info.started_at)} (${age(info.started_at)})`],
      ["exit code", info.state === "running" ? "" : String(info.exit_code ?? "")], ["restarts", info.restart_count ? String(info.restart_count) : ""], ["restart policy", info.restart_policy],
      ["ports", info.ports.join("\n")], ["networks", info.networks.join(", ")], ["mounts", info.mounts.map((mount) => `${mount.source} → ${mount.target} (${mount.mode})`).join("\n")],
      ["environment", info.env.join("\n")], ["labels", info.labels.join("\n")],
    ];
    body.append(el("dl", { class: "facts" }, ...facts.filter(([, value]) => value).flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])));
  } catch (error) {
    if (!signal.aborted) body.append(el("p", {}, error.message));
  }
}

async function showHistory(body, signal) {
  try {
    const result = await ask1("list_history", { name: detail.name, since: "7d" }, signal);
    const rows = rowsOf(result).map(({ time, what, who, detail: why, times }) => ({ time, what: times > 1 ? `${what} (${times} times)` : what, who, why }));
    if (rows.length) body.append(table(rows));
    else body.append(el("p", {}, "Nothing happened in the last seven days."));
    if (result.kept_since > result.since) body.append(el("p", {}, `History is kept since ${clock(result.kept_since)}.`));
    if (result.note) body.append(el("p", {}, result.note));
  } catch (error) {
    if (!signal.aborted) body.append(el("p", {}, error.message));
  }
}

const rowsOf = (result) => Object.values(result ?? {}).find((value) => Array.isArray(value) && value.length && typeof value[0] === "object") ?? [];

function table(rows, most = 30) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((name) => name !== "id" && rows.some((row) => !["", null, undefined].includes(row[name]) && !(Array.isArray(row[name]) && !row[name].length))).slice(0, 8);
  const cell = (name, value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value)
    : /^\d{4}-\d\d-\d\dT/.test(value) ? clock(value) : typeof value === "number" && /(size|memory|used|total|_rx|_tx|_read|_write|limit|free|bytes)/.test(name) ? size(value) : String(value));
  const made = el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, el("table", {},
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name.replaceAll("_", " "))))),
    el("tbody", {}, ...rows.slice(0, most).map((row) => el("tr", {}, ...columns.map((name) => el("td", {}, cell(name, row[name]))))))));
  return rows.length > most ? el("div", {}, made, el("small", {}, `and ${rows.length - most} more`)) : made;
}

function followHash() {
  const [, host, name] = /^#\/([^/]+)\/([^/]+)$/.exec(location.hash) ?? [];
  if (host) openDetail(decodeURIComponent(host), decodeURIComponent(name));
  else if ($("detail").open) $("detail").close();
}

// ---------------------------------------------------------------- asking

const EXAMPLES = ["Is everything ok?", "Which container uses the most memory?", "Which host has room for a 2 GB database?"];
const CONVERSATION = "anvyl.conversation";
const MOST_TURNS = 20;
/** The conversation of this tab, which a reload continues. The server knows the earlier turns by its id. */
let conversation = newConversation();
let asking = null;
const noted = new Set();
const withoutFlags = (hint) => (hint.includes("anvyl ") ? hint : hint.replaceAll("--host ", "on "));

function newConversation() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), turns: [] };
}

function restoreConversation() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(CONVERSATION));
    if (typeof kept?.id === "string" && Array.isArray(kept.turns)) conversation = kept;
  } catch { /* nothing is kept */ }
  if (!conversation.turns.length) return drawExamples();
  $("turns").replaceChildren();
  for (const { query, answer } of conversation.turns) {
    const reply = el("div", { class: "reply" });
    $("turns").append(el("p", { class: "said", dir: "auto" }, query), reply);
    showAnswer(reply, answer);
  }
  $("turns").scrollTop = $("turns").scrollHeight;
}

function keepTurn(query, answer) {
  const { approval, ...kept } = answer;
  const calls = answer.calls.filter((one) => one.ok && rowsOf(one.result).length > 1).map(({ tool, host, ok, result }) => ({ tool, host, ok, result: { rows: rowsOf(result).slice(0, 31) } }));
  conversation.turns = [...conversation.turns, { query, answer: { ...kept, calls } }].slice(-MOST_TURNS);
  for (; ; conversation.turns.shift()) {
    try {
      return sessionStorage.setItem(CONVERSATION, JSON.stringify(conversation));
    } catch {
      if (!conversation.turns.length) return undefined;
    }
  }
}

function startOver() {
  asking?.abort();
  sessionStorage.removeItem(CONVERSATION);
  conversation = newConversation();
  noted.clear();
  drawExamples();
}

function drawExamples() {
  $("new").hidden = true;
  $("turns").replaceChildren(el("div", { class: "hints" }, el("p", {}, "Ask about your hosts, or say what to do. A change waits for your yes."), ...EXAMPLES.map((words) => el("button", { type: "button", onclick: () => ask(words) }, words))));
}

async function ask(query) {
  if (asking || !query.trim()) return;
  asking = new AbortController();
  $("turns").querySelector(".hints")?.remove();
  $("new").hidden = false;
  const steps = el("div", { class: "steps", role: "status" }, "thinking…");
  const reply = el("div", { class: "reply" }, steps);
  $("turns").append(el("p", { class: "said", dir: "auto" }, query), reply);
  setText($("send"), "Stop");
  const down = () => { $("turns").scrollTop = $("turns").scrollHeight; };
  down();
  const running = new Map(), { id } = conversation;
  const progress = () => {
    const waiting = [...running].filter(([, hosts]) => hosts.size).map(([tool, hosts]) => `${tool.replaceAll("_", " ")} on ${[...hosts].join(", ")}`);
    setText(steps, waiting.length ? `${waiting.join("; ")}…` : "thinking…");
  };
  try {
    for await (const [name, data] of backend.ask(query, conversation.id, asking.signal)) {
      if (name === "call") running.set(data.tool, new Set(data.hosts)), progress();
      else if (name === "result") running.get(data.tool)?.delete(data.host), progress();
      else if (name === "error") throw new Error([data.error.message, data.error.hint].filter(Boolean).map(withoutFlags).map(sentence).join(". "));
      if (name === "done") {
        showAnswer(reply, data);
        if (conversation.id === id) keepTurn(query, data);
      }
      down();
      if (name === "done") break;
    }
  } catch (error) {
    reply.append(el("p", { class: "problem" }, error.name === "AbortError" ? "Stopped." : error.message));
  }
  steps.remove();
  if (!reply.children.length) reply.append(el("p", { class: "problem" }, "The connection was lost before the answer came."));
  down();
  asking = null;
  setText($("send"), "Ask");
}

function showAnswer(reply, answer) {
  if (answer.meant) reply.append(el("p", { class: "note" }, `→ ${answer.meant}`));
  // Lists that stand in the text are shown as tables instead; others can be opened.
  const listed = Boolean(answer.words);
  const text = answer.words || answer.response;
  if (text) reply.append(...prose(text));
  for (const call of answer.calls.filter((one) => one.ok && rowsOf(one.result).length > 1).slice(0, 8)) {
    const rows = rowsOf(call.result);
    reply.append(el("details", { open: listed }, el("summary", {}, `${call.host}: ${call.tool.replaceAll("_", " ")}, ${plural(rows.length, "row")}`), table(rows)));
  }
  for (const line of answer.notes ?? []) {
    if (!answer.response.includes(line) && !noted.has(line)) reply.append(el("p", { class: "note" }, line));
    noted.add(line);
  }
  if (answer.approval) reply.append(proposal(answer.approval));
  const source = answer.mode === "model" ? answer.model : "by rules, without a model";
  reply.append(el("p", { class: "note" }, source));
}

function proposal(held) {
  asked.add(held.id);
  drawWaiting();
  const box = el("div", { class: "proposal", role: "group", "aria-label": "Waits for your yes" });
  const finish = (answer, approve) => box.replaceChildren(el("div", {}, approve ? answer.response || "Done." : "Denied; nothing was changed."));
  box.append(...held.calls.flatMap((call) => [el("div", {}, describe(call)), ...(call.details ?? []).map((line) => el("small", {}, line)), ...[call.why, call.untrusted && `proposed after reading ${call.untrusted}`].filter(Boolean).map((line) => el("small", {}, line))]),
    rights.has("operate") ? decisionButtons(held, finish) : el("small", {}, "this session may only look"));
  return box;
}

// ---------------------------------------------------------------- updates

async function lookForUpdates(button) {
  button.disabled = true;
  setText(button, "Asking registries…");
  try {
    const hosts = fleet.order.filter((name) => offers(name, "list_updates"));
    const answer = await backend.call("list_updates", { refresh: true }, hosts.join(","));
    answer.calls.forEach(takeUpdates);
    const found = answer.calls.flatMap((call) => call.result?.updates ?? []).length;
    const failed = answer.calls.find((call) => !call.ok);
    const unchecked = answer.calls.flatMap((call) => call.result?.unchecked ?? []);
    const rest = unchecked.length ? `${plural(unchecked.length, "container")} could not be checked: ${unchecked[0]}${unchecked.length > 1 ? ", …" : ""}.` : "";
    note([found ? `${plural(found, "update")} available.` : failed ? failed.error : "Everything that could be checked is up to date.", rest].filter(Boolean).join(" "));
  } catch (error) {
    note(error.message);
  } finally {
    button.disabled = false;
    setText(button, "Check for updates");
  }
}

/** Take what `list_updates` found on one host. */
function takeUpdates(call) {
  if (!call.ok) return;
  entry(call.host).updates = new Map(call.result.updates.map((row) => [row.name, row]));
  draw();
}

/** Ask again about one container, after an update of it. */
async function lookAgain(host, name) {
  const answer = await backend.call("list_updates", { name }, host);
  const rows = answer.calls.flatMap((call) => call.result?.updates ?? []);
  entry(host).updates.delete(name);
  for (const row of rows) entry(host).updates.set(row.name, row);
  draw();
}

// ---------------------------------------------------------------- signing in and out

function signedOut(why = "") {
  localStorage.removeItem(SESSION);
  watching?.abort();
  for (const dialog of [$("detail"), $("confirm")]) if (dialog.open) dialog.close();
  fleet.hosts.clear();
  fleet.order = [];
  fleet.approvals = [];
  fleet.notices = null;
  $("bell").hidden = true;
  $("notices-list").replaceChildren();
  $("notices").hidePopover?.();
  startOver();
  $("turns").replaceChildren();
  $("hosts").replaceChildren();
  $("summary").replaceChildren();
  setText($("live"), "");
  $("columns").hidden = $("phone").hidden = $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  setText($("sign-in-why"), why);
}

async function signIn(credential) {
  const text = credential.trim();
  const secret = text.includes(SIGN_IN) ? text.slice(text.indexOf(SIGN_IN) + SIGN_IN.length) : text.startsWith("anv_") ? "" : text;
  const session = await http.json("POST", "/session", secret ? { secret } : { token: text });
  localStorage.setItem(SESSION, session.key);
  return session;
}

async function start(session) {
  rights = new Set(session.scopes);
  $("sign-in").hidden = true;
  $("columns").hidden = $("phone").hidden = $("sign-out").hidden = false;
  $("sign-out").title = `${session.name}, until ${clock(session.expires)}`;
  if (!$("turns").children.length) restoreConversation();
  drawStates({ all: 0, trouble: 0, running: 0, stopped: 0, updates: 0 });
  if (!session.relay) note(`This session is for ${session.host} only.`);
  followHash();
  await http.watch(take);
}

async function begin() {
  if (location.hash.startsWith(SIGN_IN)) {
    const link = location.hash;
    // The secret must not stay in the history, nor be used again by a reload.
    history.replaceState(null, "", location.pathname);
    try {
      return await start(await signIn(link));
    } catch (error) {
      if (!http.key()) return signedOut(sentence(error.message));
      note(error.message);
    }
  }
  for (let wait = 1; http.key(); wait = Math.min(wait * 1.6, 8)) {
    try {
      return await start(await http.json("GET", "/session"));
    } catch (error) {
      if (error.status === 401 || error.status === 403) return signedOut(`Your session has ended: ${error.message}`);
      take.live(false);
      await sleep(wait);
    }
  }
  signedOut();
}

// ---------------------------------------------------------------- controls

function applyTheme() {
  const chosen = localStorage.getItem(THEME) ?? "";
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  const [sign, label] = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] }[chosen];
  setText($("theme"), sign);
  $("theme").setAttribute("aria-label", `Colours: ${label}`);
  $("theme").title = `Colours: ${label}`;
}

function listen() {
  $("new").addEventListener("click", startOver);
  $("updates").addEventListener("click", (event) => lookForUpdates(event.currentTarget));
  $("search").addEventListener("input", (event) => { show.words = event.target.value.trim().toLowerCase(); draw(); });
  $("confirm-no").addEventListener("click", () => $("confirm").close("no"));
  $("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
  $("detail").querySelector(".close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  $("confirm").addEventListener("close", placeNotes);
  $("detail").addEventListener("close", () => {
    placeNotes();
    detail.stop?.abort();
    Object.assign(detail, { name: "", usage: null });
    if (!IN_APP && location.hash) history.replaceState(null, "", location.pathname);
    detail.opener?.isConnected && detail.opener.focus();
  });
  $("detail-tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tabs = [...$("detail-tabs").children];
    const next = tabs[(tabs.findIndex((tab) => tab.dataset.tab === detail.tab) + step + tabs.length) % tabs.length];
    openTab(next.dataset.tab);
    next.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName) && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      $("search").focus();
    }
  });
  window.addEventListener("beforeunload", (event) => { if (busy.size) event.preventDefault(); });
  window.addEventListener("hashchange", () => (location.hash.startsWith(SIGN_IN) ? begin() : followHash()));
  if (IN_APP) return;
  $("theme").addEventListener("click", () => {
    const order = ["", "light", "dark"];
    const next = order[(order.indexOf(localStorage.getItem(THEME) ?? "") + 1) % 3];
    if (next) localStorage.setItem(THEME, next);
    else localStorage.removeItem(THEME);
    applyTheme();
  });
  $("sign-out").addEventListener("click", async () => {
    await http.json("DELETE", "/session", {}).catch(() => {});
    signedOut("You are signed out.");
  });
  $("sign-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const session = await signIn($("credential").value);
      $("credential").value = "";
      await start(session);
    } catch (error) {
      setText($("sign-in-why"), sentence(error.message));
    }
  });
  $("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (asking) return asking.abort();
    const query = $("question").value;
    $("question").value = "";
    ask(query);
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!asking) $("ask-form").requestSubmit();
    }
  });
  for (const button of $("phone").children) {
    button.addEventListener("click", () => {
      document.body.dataset.part = button.dataset.part;
      for (const one of $("phone").children) one.setAttribute("aria-pressed", String(one === button));
    });
  }
  // Another tab signed in or out.
  window.addEventListener("storage", (event) => {
    if (event.key === THEME) applyTheme();
    if (event.key === SESSION && event.newValue === null) signedOut("You are signed out.");
    if (event.key === SESSION && event.newValue && $("columns").hidden) begin();
  });
  // Browsers allow few connections to a host, so a tab in the background gives its own back.
  let leaving = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(() => watching?.abort(), 30000);
  });
}

document.body.dataset.part = "fleet";
listen();
if (IN_APP) {
  $("columns").hidden = false;
  client.watch(take).catch((error) => note(error.message));
} else {
  applyTheme();
  begin();
}
