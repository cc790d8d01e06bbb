/* What the pages do by themselves: numbers that stay current, and menus that close. Everything works without it. */
"use strict";

(() => {
  const live = () => document.getElementById("live");
  const state = () => document.getElementById("live-state");
  let failing = false;

  const tell = (fails) => {
    if (fails === failing) return;
    failing = fails;
    state().textContent = fails ? state().dataset.failing : "";
  };

  // A page that nobody looks at asks nothing; coming back, it asks at once.
  document.addEventListener("htmx:confirm", (event) => {
    if (isPoll(event.target) && document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && live()) htmx.trigger(live(), "refresh");
  });

  // When a poll fails, the numbers stay and a quiet line says so.
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => event.target === live() && tell(true));
  }
  document.addEventListener("htmx:afterSwap", (event) => event.target === live() && tell(false));

  // A region that the reader asked for says that it is coming, and when it failed says so and offers to try again.
  const SLOW = 250; // milliseconds: what comes sooner needs no sign
  const isPoll = (element) => element === live() || element.hasAttribute("data-polls");
  const waits = new WeakMap();
  const isHere = (region) => {
    clearTimeout(waits.get(region));
    region.removeAttribute("aria-busy");
    document.getElementById("failed-region")?.remove();
  };
  const sayFailed = ({ elt, target, requestConfig, pathInfo }) => {
    isHere(target);
    const words = state()?.dataset;
    if (!words) return;
    const note = document.createElement("p");
    note.id = "failed-region";
    note.className = "failed-region";
    note.setAttribute("role", "alert");
    note.append(words.failed, " ");
    if (requestConfig.verb === "get") {
      const again = document.createElement("a");
      again.href = pathInfo.finalRequestPath;
      again.textContent = words.again;
      again.addEventListener("click", (event) => {
        event.preventDefault();
        htmx.ajax("GET", pathInfo.finalRequestPath, { source: elt, target });
      });
      note.append(again);
    }
    target.before(note);
  };
  document.addEventListener("htmx:beforeRequest", ({ target, detail }) => {
    if (!isPoll(target)) waits.set(detail.target, setTimeout(() => detail.target.setAttribute("aria-busy", "true"), SLOW));
  });
  document.addEventListener("htmx:afterRequest", ({ target, detail }) => {
    if (!isPoll(target) && detail.target) detail.successful ? isHere(detail.target) : sayFailed(detail);
  });

  // What the reader opened stays open when the numbers around it change.
  if (window.Idiomorph) {
    Idiomorph.defaults.callbacks.beforeAttributeUpdated = (attribute, element) =>
      !(attribute === "open" && element.localName === "details");
  }

  // Menus close on Escape and on a click elsewhere.
  const openMenus = () => document.querySelectorAll("details:is(.menu, .pages)[open]");
  document.addEventListener("click", (event) => {
    for (const menu of openMenus()) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of openMenus()) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // A button that copies what stands beside it shows only where it can work.
  const offerCopies = (root) => {
    for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
  };
  const selected = (element) => {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy"); // the way that also works without HTTPS
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const copied = await (navigator.clipboard
      ? navigator.clipboard.writeText(source.textContent).then(() => true, () => selected(source))
      : selected(source));
    if (!copied) return;
    button.dataset.label ??= button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = button.dataset.label; }, 2000);
  });
  document.addEventListener("htmx:load", (event) => offerCopies(event.target));
  offerCopies(document);
})();
