// Refreshes the live part of a page. Everything works without it, by loading the page again.
"use strict";

(function () {
  const part = document.querySelector("[data-live]");
  if (!part) return;
  const everyMs = Number(part.dataset.everyS) * 1000;
  const status = document.querySelector("[data-live-status]");
  const pause = document.querySelector("[data-live-pause]");
  let tag = "", paused = false, timer = 0, failures = 0;

  // Changes a tree into another one in place, so that focus, scrolling and selection stay.
  function patch(old, now) {
    if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) {
      old.replaceWith(now.cloneNode(true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== now.nodeValue) old.nodeValue = now.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS"))
        old.removeAttribute(name);
    for (const { name, value } of now.attributes)
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    patchChildren(old, now);
  }

  function patchChildren(old, now) {
    const before = [...old.childNodes], after = [...now.childNodes];
    after.forEach((child, i) => {
      if (i < before.length) patch(before[i], child);
      else old.append(child.cloneNode(true));
    });
    before.slice(after.length).forEach((child) => child.remove());
  }

  // Says the summary only when it has changed: a screen reader reads it aloud.
  function say(text) {
    if (status.textContent !== text) status.textContent = text;
  }

  function sayState() {
    const summary = part.querySelector("[data-status]");
    say(summary ? summary.textContent.trim() : "");
  }

  async function refresh() {
    try {
      const headers = { "X-Moegate-Live": "1" };
      if (tag) headers["If-None-Match"] = tag;
      const answer = await fetch(location.href, { headers, cache: "no-store" });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (answer.status === 200) {
        const text = await answer.text();
        const made = new DOMParser().parseFromString(text, "text/html");
        patchChildren(part, made.body);
        tag = answer.headers.get("ETag") || "";
      } else if (answer.status !== 304) {
        throw new Error(await answer.text());
      }
      failures = 0;
      part.classList.remove("stale");
      sayState();
    } catch (error) {
      failures += 1;
      part.classList.add("stale");
      say("Not refreshed: " + (error.message || "the gateway does not answer") + " These figures are old.");
    }
    plan();
  }

  function plan() {
    clearTimeout(timer);
    // A gateway that is away is asked less often, and not by all readers at once.
    const waitMs = everyMs * Math.min(8, 2 ** failures) * (failures ? 0.5 + Math.random() : 1);
    if (!paused && !document.hidden) timer = setTimeout(refresh, waitMs);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) clearTimeout(timer);
    else refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) refresh();
  });
  sayState();
  plan();
})();
