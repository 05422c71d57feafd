-- Which instances a target refused or lacked at the last attempt, and why: SOP Instance UID -> reason, JSON.
ALTER TABLE sendings ADD COLUMN problems TEXT NOT NULL DEFAULT '{}';
