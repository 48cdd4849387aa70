"use strict";
// What moves on the page: charts follow the legends, and one slider turns the dial of a plan.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
  const points = (loss) => `${loss < 0 ? "−" : "+"}${Math.abs(100 * loss).toFixed(2)} points`;

  // what each chart is to show next waits until it has drawn what came before
  const drawn = new Map(Object.entries(read("charts")).map(([id, spec]) => [
    id, vegaEmbed(`#${id}`, spec, { mode: "vega", renderer: "svg", actions: false, defaultStyle: false })
      .then(({ view }) => view),
  ]));
  const change = (id, how) => {
    drawn.set(id, drawn.get(id).then((view) => { how(view); return view.runAsync(); }));
  };

  for (const legend of document.querySelectorAll(".legend")) {
    const boxes = [...legend.querySelectorAll("input")];
    const button = legend.querySelector("button");
    const all = () => boxes.every((box) => box.checked);
    const first = boxes.filter((box) => box.checked);
    const show = () => {
      const names = boxes.filter((box) => box.checked).map((box) => box.value);
      change(legend.dataset.chart, (chart) => chart.signal("shown", names));
      if (button) {
        button.setAttribute("aria-pressed", String(all()));
        button.textContent = all() ? "Show fewer" : "Show all";
      }
    };
    for (const box of boxes) box.addEventListener("change", show);
    button?.addEventListener("click", () => {
      const wanted = all() ? (box) => first.includes(box) : () => true;
      for (const box of boxes) box.checked = wanted(box);
      for (const more of legend.querySelectorAll("details")) more.open = all();
      show();
    });
  }

  const dials = read("dials");
  for (const dial of document.querySelectorAll(".dial")) {
    const { settings, charts } = dials[dial.id];
    const slider = dial.querySelector("input");
    const write = (what, text) => { dial.querySelector(`[data-shows="${what}"]`).textContent = text; };
    const turn = () => {
      const setting = settings[Number(slider.value)];
      write("tradeoff", setting.tradeoff);
      write("cost", percent(setting.cost));
      write("loss", points(setting.loss));
      write("band", setting.band ? `between ${points(setting.band[0])} and ${points(setting.band[1])}` : "");
      for (const item of dial.querySelectorAll(".stops li")) {
        const share = setting.exits[item.dataset.stage];
        item.querySelector(".bar").style.width = `${100 * share}%`;
        item.querySelector(".share").textContent = percent(share);
      }
      slider.setAttribute("aria-valuetext",
        `tradeoff ${setting.tradeoff}: ${percent(setting.cost)} of the cost, ${points(setting.loss)} of loss`);
      const now = [{ cost: setting.cost, excess: 100 * setting.loss }];
      for (const id of charts) change(id, (chart) => chart.data("now", now));
      const rows = document.getElementById(`${dial.id}-table`).tBodies[0].rows;
      [...rows].forEach((row, number) => {
        if (number === Number(slider.value)) row.setAttribute("aria-current", "true");
        else row.removeAttribute("aria-current");
      });
    };
    slider.addEventListener("input", turn);
    turn();
  }

  // on paper nothing can be opened
  const opened = new Set();
  const printing = window.matchMedia("print");
  const unfold = () => {
    for (const details of document.querySelectorAll("details")) {
      if (printing.matches && !details.open) { details.open = true; opened.add(details); }
    }
    if (!printing.matches) { for (const details of opened) details.open = false; opened.clear(); }
  };
  printing.addEventListener("change", unfold);
  Promise.all(drawn.values()).then(() => { document.body.dataset.ready = "true"; });
})();
