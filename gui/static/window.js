"use strict";
/* Small habits of the pages: messages, dropping pictures, search, sliders, notifications. htmx does the rest. */
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const secret = document.body.dataset.secret;

// Messages

const notice = one("#notice");
const say = (text) => {
  one("p", notice).textContent = text;
  notice.hidden = false;
};
one("button", notice).addEventListener("click", () => { notice.hidden = true; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") notice.hidden = true; });
document.body.addEventListener("htmx:responseError", (event) => say(event.detail.xhr.responseText || "Something went wrong. Try again."));
document.body.addEventListener("htmx:sendError", () => { one("#offline").hidden = false; });
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.requestConfig.verb !== "get") notice.hidden = true;
});
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.xhr && event.detail.xhr.status) one("#offline").hidden = true;
});

// An automatic update never replaces a field that you are filling in.
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const { requestConfig, target } = event.detail, active = document.activeElement;
  if (requestConfig.verb === "get" && active.matches("input, textarea, select") && target.contains(active)) {
    event.detail.shouldSwap = false;
  }
});

// Pictures

const send = async (files, drop) => {
  const bar = one("#sending"), refused = one("#refused");
  refused.replaceChildren();
  bar.hidden = false;
  bar.max = files.length;
  for (const [number, file] of files.entries()) {
    bar.value = number;
    const form = new FormData();
    form.append("picture", file);
    let problem = null;
    try {
      const answer = await fetch(drop.dataset.to, { method: "POST", body: form, headers: { "X-PureCC-Secret": secret } });
      if (!answer.ok) problem = await answer.text();
    } catch (error) {
      problem = file.name + " could not be sent: it is too large, or the window is not responding.";
    }
    if (problem) {
      const line = document.createElement("li");
      line.textContent = problem;
      refused.append(line);
    }
  }
  bar.hidden = true;
  htmx.ajax("GET", drop.dataset.grid, "#grid");
};
const drop = one("#drop");
if (drop) {
  const files = one("#files");
  files.addEventListener("change", () => { send([...files.files], drop); files.value = ""; });
  for (const name of ["dragover", "dragenter"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) send([...event.dataTransfer.files], drop);
  });
}

// Captions, settings, command line

document.addEventListener("click", (event) => {
  const insert = event.target.closest("[data-insert]"), copy = event.target.closest("[data-copy]");
  if (insert) {
    const text = document.getElementById(insert.dataset.insert);
    text.setRangeText("[V]", text.selectionStart, text.selectionEnd, "end");
    text.focus();
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }
  if (copy) {
    navigator.clipboard.writeText(copy.dataset.copy).then(
      () => { copy.textContent = "Copied"; },
      () => say(copy.dataset.copy),
    );
  }
  if (event.target.closest("[data-notify]") && "Notification" in window) Notification.requestPermission();
});
document.addEventListener("input", (event) => {
  const field = event.target;
  if (field.dataset.filter) {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of all(field.dataset.filter)) {
      const text = line.dataset.words.toLowerCase();
      line.hidden = !words.every((word) => text.includes(word));
    }
  }
  if (field.type === "range" && field.closest(".strength")) one("output", field.closest(".strength")).textContent = field.value;
  const sheet = field.type === "range" && field.closest("[data-sheets]");
  if (sheet) {
    const [step, name] = JSON.parse(sheet.dataset.sheets)[field.value];
    one("img", sheet).src = sheet.dataset.at + name;
    one("a", sheet).href = sheet.dataset.at + name;
    one("output", sheet).textContent = step;
  }
});
const show = () => {
  const filter = one("#search");
  if (filter && filter.value) filter.dispatchEvent(new Event("input", { bubbles: true }));
};
document.body.addEventListener("htmx:afterSwap", show);

// On a narrow screen, scroll the current page into view among the steps.
one(".tabs [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

// The end of a run, in the title and as a notification

const title = document.title;
let before = null;
const follow = () => {
  const progress = one("#part-progress");
  if (!progress) return;
  const { state, name } = progress.dataset, bar = one("progress", progress);
  const share = bar && bar.max ? Math.round(100 * bar.value / bar.max) + " % " : "";
  const words = { done: "Done: ", stopped: "Stopped: ", failed: "Failed: ", killed: "Ended unexpectedly: " };
  document.title = (words[state] || share) + title;
  const live = ["starting", "running", "stopping"];
  if (live.includes(before) && words[state] && "Notification" in window && Notification.permission === "granted") {
    new Notification(words[state] + name);
  }
  before = state;
};
document.body.addEventListener("htmx:afterSwap", follow);
follow();
