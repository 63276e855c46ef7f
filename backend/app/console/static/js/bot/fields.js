// Every field of a profile: where it stands, how it is edited, and its limits. What a field means is in the dictionary,
// bot.<name> and bot.<name>_help. A field that is not here (of a newer server) is edited by the form of its value.
export const MAX_PROFILE_BYTES = 64 * 1024;

const text = (name, max) => ({ name, kind: "text", max });
const area = (name, max, rows, { nullable = false } = {}) => ({ name, kind: "area", max, rows, nullable });
/** `unit`: how many of the field's own make one of those that are edited. */
const figure = (name, min, max, { step = 1, nullable = false, unit = 1 } = {}) => ({ name, kind: "number", min, max, step, nullable, unit });
const flag = (name) => ({ name, kind: "switch" });

export const GROUPS = [
  { name: "identity", fields: [text("business_name", 200), area("description", 65536, 3), area("address", 1000, 2), area("hours", 2000, 2)] },
  { name: "knowledge", fields: [area("knowledge_base", 65536, 8), { name: "custom_fields", kind: "pairs" }, { name: "template_config", kind: "template" }] },
  {
    name: "texts",
    fields: [area("greeting_text", 4096, 2, { nullable: true }), area("interim_text", 4096, 2), area("fallback_text", 4096, 2), area("outside_hours_text", 4096, 2, { nullable: true }), area("non_text_reply", 4096, 2)],
  },
  {
    name: "handover",
    fields: [
      { name: "handover_keywords", kind: "words" }, { name: "on_handover", kind: "choice", options: ["pause", "continue"] }, figure("handover_pause_minutes", 1, 10080),
      { name: "handover_notify_number", kind: "text", max: 32, nullable: true }, { name: "business_hours", kind: "week" }, { name: "stop_words", kind: "words" },
    ],
  },
  {
    name: "behaviour",
    fields: [
      { name: "model", kind: "text", max: 100, nullable: true }, figure("temperature", 0, 2, { step: 0.1, nullable: true }), figure("max_output_tokens", 1, 2048, { nullable: true }),
      figure("auto_reply_limit", 1, 1000), figure("auto_reply_minutes", 1, 1440), flag("resend_ambiguous"),
    ],
  },
  {
    name: "files",
    fields: [
      flag("media_understanding"), { name: "media_kinds", kind: "several", options: ["image", "sticker", "audio", "video", "document"] },
      figure("media_max_bytes", 100_000, 14_000_000, { nullable: true, step: "any", unit: 1_000_000 }), figure("media_max_seconds", 1, 3600), figure("media_max_pages", 1, 1000, { nullable: true }),
    ],
  },
];

const KNOWN = new Set(GROUPS.flatMap((group) => group.fields.map((field) => field.name)));
const NOT_EDITED = new Set(["account_id", "updated_at"]);

/** The groups with the fields that this server's profile has, those that we do not know at the end. */
export function groupsOf(profile) {
  const groups = GROUPS.map((group) => ({ ...group, fields: group.fields.filter((field) => field.name in profile) }));
  const others = Object.keys(profile).filter((name) => !KNOWN.has(name) && !NOT_EDITED.has(name));
  if (others.length) groups.push({ name: "more", fields: others.map((name) => ({ name, kind: kindOf(profile[name]), max: 4096, rows: 2, nullable: profile[name] === null })) });
  return groups.filter((group) => group.fields.length);
}

function kindOf(value) {
  if (typeof value === "boolean") return "switch";
  if (typeof value === "number") return "number";
  return value !== null && typeof value === "object" ? "json" : "area";
}

export function bytesOf(profile) {
  const encoder = new TextEncoder();
  let sum = 0;
  for (const [name, value] of Object.entries(profile)) {
    if (NOT_EDITED.has(name)) continue;
    if (typeof value === "string") sum += encoder.encode(value).length;
    else if (value !== null && typeof value === "object" && Object.keys(value).length) sum += encoder.encode(JSON.stringify(value)).length;
  }
  return sum;
}
