// The templates of every component: htm makes elements of Preact. Text in them is text, whatever it holds.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
