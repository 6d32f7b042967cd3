"use strict";

/** Light and dark: as the system has it, until the button says otherwise; kept for the next visit where the browser allows. */
const theme = {
  button: document.getElementById("theme"),
  system: matchMedia("(prefers-color-scheme: dark)"),
  chosen: null,

  isDark() {
    return this.chosen ? this.chosen === "dark" : this.system.matches;
  },

  show() {
    document.documentElement.style.colorScheme = this.chosen ?? "";
    this.button.setAttribute("aria-pressed", String(this.isDark()));
    this.button.querySelector(".label").textContent = this.isDark() ? "Light" : "Dark";
    document.dispatchEvent(new Event("theme"));
  },

  start() {
    try { this.chosen = localStorage.getItem("notice-report-theme"); } catch { /* files may not be allowed to keep anything */ }
    this.button.addEventListener("click", () => {
      this.chosen = this.isDark() ? "light" : "dark";
      try { localStorage.setItem("notice-report-theme", this.chosen); } catch { /* as above */ }
      this.show();
    });
    this.system.addEventListener("change", () => this.show());
    this.show();
  },

  /** A colour of the style sheet as the page shows it now. */
  colour(name) {
    const probe = element("span", { style: `color: var(--${name})`, hidden: true });
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  },
};
