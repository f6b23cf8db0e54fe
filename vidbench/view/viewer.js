// The clip viewer of notebooks and offline pages, see viewer.py. A tile is what has `data-clip`:
// JSON of path, frames in the whole video, and number and time of each frame of the clip.
(() => {
  if (globalThis.vidbenchViewer) return;
  globalThis.vidbenchViewer = true;
  const TILES = "[data-clip]";
  const LOOKS = `
    ${TILES} { position: relative; }
    ${TILES}:not([data-pick]) { cursor: pointer; }
    ${TILES}:focus-visible { outline: 3px solid var(--jp-brand-color1, #0072B2); outline-offset: 1px; }
    .vidbench-enlarge { position: absolute; right: 5px; top: 5px; padding: 0; width: 24px; height: 24px; opacity: 0;
      border: 0; border-radius: 4px; background: #1F2328; color: #fff; font: 15px/1 system-ui, sans-serif; cursor: pointer; }
    ${TILES}:hover > .vidbench-enlarge, ${TILES}:focus > .vidbench-enlarge { opacity: 1; }
    .vidbench-viewer { box-sizing: border-box; width: min(1120px, 96vw); max-height: 96vh; padding: 14px 18px; border: 0;
      border-radius: 8px; background: #16181c; color: #f2f2f2; font: 14px/1.4 system-ui, sans-serif; }
    .vidbench-viewer::backdrop { background: rgba(0, 0, 0, 0.6); }
    .vidbench-viewer > div { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 12px; margin: 0 0 10px; }
    .vidbench-viewer .panes { justify-content: center; }
    .vidbench-viewer figure { flex: 1 1 240px; max-width: 640px; margin: 0; text-align: center; }
    .vidbench-viewer figure > :first-child { width: 100%; height: auto; max-height: min(56vh, 520px); object-fit: contain; }
    .vidbench-viewer button, .vidbench-viewer select { padding: 4px 10px; border: 1px solid #8a929c; border-radius: 4px;
      background: #2b2f36; color: #f2f2f2; font: inherit; cursor: pointer; }
    .vidbench-viewer :disabled { opacity: 0.4; cursor: default; }
    .vidbench-viewer :focus-visible { outline: 3px solid #5fb4ec; outline-offset: 1px; }
    .vidbench-viewer input { accent-color: #5fb4ec; background: none; color: inherit; }
    .vidbench-viewer .title, .vidbench-viewer .frame, .vidbench-viewer .path { flex: 1 1 160px; min-width: 0; overflow-wrap: anywhere; }
    .vidbench-viewer .path { font: 13px/1.4 ui-monospace, monospace; user-select: all; }
    .vidbench-viewer .now { min-width: 15em; font-variant-numeric: tabular-nums; }
    .vidbench-viewer .said { margin: 0; color: #c9ced6; }`;
  const BODY = `
    <div><b class="title"></b><button class="close" title="Close (Esc)">close</button></div>
    <div class="panes"></div>
    <div><button class="play" title="Play or pause (Space)" autofocus></button>
      <button class="before" title="One frame back (left arrow or comma)" aria-label="one frame back">‹</button>
      <button class="after" title="One frame on (right arrow or period)" aria-label="one frame on">›</button>
      <input class="frame" type="range" min="0" value="0" aria-label="frame"><output class="now"></output></div>
    <div><label>speed <select class="speed">${[0.25, 0.5, 1, 1.5, 2].map(one =>
      `<option value="${one}" ${one === 1 ? "selected" : ""}>${one}×</option>`).join("")}</select></label>
      <label>brighten <input class="bright" type="range" min="1" max="5" step="0.1" value="1"></label></div>
    <div><span class="path"></span><button class="copy">copy path and time</button></div>
    <p class="said" role="status"></p>`;
  const OLD = "This browser only loops the clip. Pausing, speed and frames need ImageDecoder: a newer browser, and a page " +
    "from a file, from localhost or by https.";
  const WAITS = "The kernel reads all frames of this video. Until then this is the small clip.";
  const style = document.createElement("style");
  style.textContent = LOOKS;
  document.head.append(style);
  const enlarge = document.createElement("button");
  Object.assign(enlarge, { className: "vidbench-enlarge", textContent: "⤢", title: "Enlarge (v)", tabIndex: -1, type: "button" });

  let dialog, find, tile, panes = [], at = 0, paused = false, clock = 0, last = 0, waits = 0, turn = 0, ask;
  const facts = one => { try { return JSON.parse(one.dataset.clip); } catch { return {}; } };
  const bytes = address => {
    const text = atob(address.slice(address.indexOf(",") + 1)), all = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) all[i] = text.charCodeAt(i);
    return all;
  };

  // One clip in the dialog: `times` in seconds from its first frame, `frames` by the video's count.
  const pane = async (picture, about) => {
    const made = { about, drawn: -1 };
    if (globalThis.ImageDecoder) {
      const type = picture.src.slice(5, picture.src.indexOf(";"));
      made.decoder = new ImageDecoder({ data: bytes(picture.src), type });
      await Promise.all([made.decoder.completed, made.decoder.tracks.ready]);
      const count = made.decoder.tracks.selectedTrack.frameCount, { image } = await made.decoder.decode();
      const step = (image.duration || 1e5) / 1e6, numbers = Array.from({ length: count }, (_, i) => i);
      made.times = about.times?.length === count ? about.times : numbers.map(i => i * step);
      made.frames = about.frames?.length === count ? about.frames : numbers;
      made.length = count > 1 ? (made.times[count - 1] - made.times[0]) * count / (count - 1) : 1;
      made.sheet = document.createElement("canvas");
      [made.sheet.width, made.sheet.height] = [image.displayWidth, image.displayHeight];
      image.close();
    } else {
      made.sheet = document.createElement("img");
      made.sheet.src = picture.src;
    }
    return made;
  };
  const draw = async (one, place) => {
    one.wanted = place;
    if (one.busy) return;
    one.busy = true;
    while (one.drawn !== one.wanted) {
      const frameIndex = one.wanted, found = await one.decoder.decode({ frameIndex }).catch(() => null), image = found?.image;
      if (!image) return;  // the viewer has closed meanwhile
      one.sheet.getContext("2d").drawImage(image, 0, 0);
      image.close();
      one.drawn = frameIndex;
    }
    one.busy = false;
  };
  // the last entry that is not above a value
  const below = (all, value) => Math.max(0, all.findLastIndex(one => one <= value + 1e-6));
  const moment = () => {
    const [{ about, frames, times }] = panes;
    const frame = frames ? `frame ${frames[at] + 1} of ${about.of || frames.length}` : "";
    return [frame, frames ? `${times[at].toFixed(3)} s` : ""];
  };
  const show = place => {
    const [first] = panes;
    if (!first?.decoder) return;
    at = Math.min(Math.max(place, 0), first.frames.length - 1);
    for (const one of panes) draw(one, one === first ? at : below(one.frames, first.frames[at]));
    find(".frame").value = at;
    find(".frame").setAttribute("aria-valuetext", find(".now").textContent = moment().join(" · "));
  };
  const pause = now => {
    paused = now;
    find(".play").textContent = paused ? "▶ play" : "❚❚ pause";
    if (panes[0]?.decoder) clock = panes[0].times[at] - panes[0].times[0];
  };
  const step = by => { pause(true); show(at + by); };
  const tick = now => {
    if (!dialog.open) return;
    const [first] = panes;
    if (!paused && first?.decoder) {
      clock = (clock + Math.min(now - last, 200) / 1e3 * find(".speed").value) % first.length;
      const place = below(first.times, first.times[0] + clock);
      if (place !== at) show(place);
    }
    last = now;
    requestAnimationFrame(tick);
  };
  const fill = async pictures => {
    const mine = ++turn, old = panes, made = await Promise.all(pictures.map(([picture, about]) => pane(picture, about)));
    if (mine !== turn || !dialog.open) return;  // a later call has come
    const time = panes[0]?.times?.[at];
    panes = made;
    old.forEach(one => one.decoder?.close());
    find(".panes").replaceChildren(...panes.map(one => {
      const figure = document.createElement("figure"), words = document.createElement("figcaption");
      words.textContent = panes.length > 1 ? one.about.kind : "";
      one.sheet.setAttribute("role", "img");
      one.sheet.setAttribute("aria-label", `clip: ${words.textContent} ${tile.title}`);
      figure.append(one.sheet, words);
      return figure;
    }));
    const can = Boolean(panes[0].decoder);
    for (const what of [".play", ".before", ".after", ".frame", ".speed"]) find(what).disabled = !can;
    if (!can) find(".said").textContent = OLD;
    find(".path").textContent = panes[0].about.path || "";
    find(".frame").max = can ? panes[0].frames.length - 1 : 0;
    show(time === undefined ? 0 : below(panes[0].times, time));
    if (can) clock = panes[0].times[at] - panes[0].times[0];
    bright();
  };
  const bright = () => panes.forEach(one => { one.sheet.style.filter = `brightness(${find(".bright").value})`; });
  const copy = async () => {
    const text = [find(".path").textContent, ...moment()].filter(Boolean).join(", ");
    try {
      await navigator.clipboard.writeText(text);
      find(".said").textContent = `Copied: ${text}`;
    } catch {
      getSelection().selectAllChildren(find(".path"));
      find(".said").textContent = `The browser blocks copying. Copy it by hand: ${text}`;
    }
  };
  const close = () => {
    clearInterval(waits);
    ask?.("");
    panes.forEach(one => one.decoder?.close());
    panes = [];
    const again = one => facts(one).path === facts(tile).path && one.checkVisibility();
    (tile.isConnected ? tile : [...document.querySelectorAll(TILES)].find(again))?.focus({ preventScroll: true });
  };
  const make = () => {
    dialog = document.createElement("dialog");
    dialog.className = "vidbench-viewer";
    dialog.dataset.lmSuppressShortcuts = "true";  // JupyterLab leaves the dialog its keys
    dialog.setAttribute("aria-label", "Clip viewer");
    dialog.innerHTML = BODY;
    document.body.append(dialog);
    find = what => dialog.querySelector(what);
    find(".play").onclick = () => pause(!paused);
    find(".before").onclick = () => step(-1);
    find(".after").onclick = () => step(1);
    find(".frame").oninput = event => { pause(true); show(Number(event.target.value)); };
    find(".bright").oninput = bright;
    find(".copy").onclick = copy;
    find(".close").onclick = () => dialog.close();
    dialog.onclose = close;
    dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
    dialog.onkeydown = event => {
      event.stopPropagation();
      const own = event.target.matches("select, .bright") || event.ctrlKey || event.altKey || event.metaKey;
      const by = { ",": -1, ".": 1, ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (own || find(".play").disabled) return;
      if (by) step(by);
      else if (event.key === " " && !event.target.matches("button:not(.play)")) pause(!paused);
      else return;
      event.preventDefault();
    };
  };
  const open = one => {
    if (!dialog?.isConnected) make();
    if (dialog.open) return;
    [tile, at, clock, ask] = [one, 0, 0, undefined];
    const { path } = facts(one), own = other => other !== one && path && facts(other).path === path;
    find(".title").textContent = one.title;
    for (const what of [".said", ".now", ".path"]) find(what).textContent = "";
    [find(".bright").value, find(".speed").value] = [1, 1];
    dialog.showModal();
    pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
    const other = [...document.querySelectorAll(TILES)].find(two => own(two) && facts(two).kind !== facts(one).kind);
    const second = one.dataset.other ? [{ src: one.dataset.other }, JSON.parse(one.dataset.facts)]
      : other && [other.querySelector("img"), facts(other)];
    const failed = error => { find(".said").textContent = `The clip cannot be decoded: ${error.message}`; };
    fill([[one.querySelector("img"), facts(one)], second].filter(Boolean)).catch(failed);
    fill([[one.querySelector("img"), facts(one)], second].filter(Boolean)).catch(failed);
    requestAnimationFrame(tick);
    // a listener of a widget sets `ask`: its kernel answers with the whole video, hidden in the page
    const detail = { tile: one };
    document.dispatchEvent(new CustomEvent("vidbench-view", { detail }));
    if (!path || !detail.ask) return;
    ask = detail.ask;
    ask(path);
    find(".said").textContent = WAITS;
    clearInterval(waits);
    waits = setInterval(() => {
      const answer = document.querySelector(`[data-whole="${CSS.escape(path)}"]`);
      if (!answer) return;
      clearInterval(waits);
      find(".said").textContent = answer.dataset.said;
      const pictures = [...answer.querySelectorAll("img")];
      if (pictures.length) fill(pictures.map(picture => [picture, JSON.parse(picture.dataset.facts)])).catch(failed);
    }, 100);
  };

  const offer = event => {
    const one = event.target.closest?.(TILES);
    if (one && enlarge.parentElement !== one) one.append(enlarge);
  };
  document.addEventListener("pointerover", offer);
  document.addEventListener("focusin", offer);
  const opens = (event, one) => { event.preventDefault(); event.stopPropagation(); open(one); };
  // these come first (true): a click on the button is none on the tile
  document.addEventListener("click", event => {
    const one = event.target.closest?.(TILES);
    if (one && (event.target === enlarge || !("pick" in one.dataset))) opens(event, one);
  }, true);
  document.addEventListener("keydown", event => {
    const one = event.target.closest?.(TILES), plain = one && !("pick" in one.dataset);
    if (!one || event.ctrlKey || event.altKey || event.metaKey) return;
    const by = plain && { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by && !event.defaultPrevented && !one.closest(".vidbench-tiles")) {  // there the widget does it
      const all = [...document.querySelectorAll(TILES)];
      all[all.indexOf(one) + by]?.focus();
      event.preventDefault();
    } else if (event.key === "v" || plain && ["Enter", " "].includes(event.key)) opens(event, one);
  }, true);
})();
