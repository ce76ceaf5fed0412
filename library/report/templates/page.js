"use strict";
const cut = (slider) => slider.parentElement.style.setProperty("--cut", slider.value + "%");
for (const slider of document.querySelectorAll("[data-compare]")) {
  slider.addEventListener("input", () => cut(slider));
  cut(slider);
}
for (const all of document.querySelectorAll("[data-all]")) {
  all.addEventListener("input", () => {
    for (const slider of all.closest("details").querySelectorAll("[data-compare]")) {
      slider.value = all.value;
      cut(slider);
    }
  });
}
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg"), cursor = plot.querySelector(".cursor"), box = plot.querySelector(".values");
  const data = JSON.parse(plot.querySelector("script").textContent);
  const left = 52, wide = 640 - 52 - 12;
  let step = data.first;
  const nearest = (points) => points.reduce((best, point) =>
    Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
  const show = () => {
    const x = left + (step - data.first) / data.span * wide;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("hidden");
    box.hidden = false;
    box.textContent = ["step " + Math.round(step), ...data.curves.map((curve) =>
      curve.name + "  " + nearest(curve.points)[1])].join("\n");
    const share = x / 640;
    box.style.left = share < 0.5 ? share * 100 + 2 + "%" : "auto";
    box.style.right = share < 0.5 ? "auto" : (1 - share) * 100 + 2 + "%";
  };
  const hide = () => {
    cursor.setAttribute("hidden", "");
    box.hidden = true;
  };
  plot.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width * 640;
    step = Math.min(data.first + data.span, Math.max(data.first, data.first + (x - left) / wide * data.span));
    show();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", show);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (by === undefined) return;
    step = Math.min(data.first + data.span, Math.max(data.first, Math.round(step) + by));
    show();
    event.preventDefault();
  });
}
