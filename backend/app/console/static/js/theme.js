// Light, dark, or as the computer has it.
import { signal } from "@preact/signals";

const KEPT = "chorus.theme";
export const THEMES = ["auto", "light", "dark"];
export const theme = signal("auto");

export function startTheme() {
  const kept = localStorage.getItem(KEPT);
  chooseTheme(THEMES.includes(kept) ? kept : "auto");
}

export function chooseTheme(name) {
  theme.value = name;
  localStorage.setItem(KEPT, name);
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}
