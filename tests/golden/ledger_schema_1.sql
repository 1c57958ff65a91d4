BEGIN TRANSACTION;
CREATE TABLE account (
        account_id TEXT NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT,
        period TEXT NOT NULL,
        starts_unix_s BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        committed_nano_usd BIGINT NOT NULL
    );
INSERT INTO "account" VALUES('month/1793491200/team/capped','team','capped',NULL,'month',1793491200,5515,14926843);
INSERT INTO "account" VALUES('hour/1795975200/team/agent/s=it''s a "session" – ü','team','agent','it''s a "session" – ü','hour',1795975200,700,7464656);
CREATE TABLE attempt (epoch TEXT NOT NULL, seq BIGINT NOT NULL, state TEXT NOT NULL, request_id TEXT NOT NULL, attempt BIGINT NOT NULL, key_id TEXT NOT NULL, tenant TEXT NOT NULL, session_id TEXT NOT NULL, model TEXT NOT NULL, slo_class TEXT NOT NULL, placement TEXT NOT NULL, pool TEXT NOT NULL, kind TEXT NOT NULL, outcome TEXT NOT NULL, started_unix_us BIGINT NOT NULL, ended_unix_us BIGINT NOT NULL, prompt_tokens BIGINT, cached_tokens BIGINT, cache_write_tokens BIGINT, completion_tokens BIGINT, reasoning_tokens BIGINT, metered_nano_usd BIGINT, charged_nano_usd BIGINT, budgeted_nano_usd BIGINT NOT NULL, basis TEXT NOT NULL, price_row_id TEXT NOT NULL, parts TEXT NOT NULL, cheapest_remote_nano_usd BIGINT, last_attempt BIGINT NOT NULL, lease_id TEXT NOT NULL, note TEXT NOT NULL, PRIMARY KEY (epoch, seq));
INSERT INTO "attempt" VALUES('b383a377979a7adb',0,'final','0',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2000,1000,1000,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',1,'final','1',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2002,1001,1001,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',2,'final','2',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2004,1002,1002,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',3,'final','3',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2006,1003,1003,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',4,'final','4',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2008,1004,1004,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',5,'final','5',1,'capped','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,2010,1005,1005,'','row','',NULL,1,'b383a377979a7adb-a19c43455253','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',6,'final','0',1,'agent','team','it''s a "session" – ü','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,1400,700,700,'','row','',NULL,1,'b383a377979a7adb-06a854d1c672','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',7,'unpriced','1',1,'key','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,NULL,NULL,0,'','row','',NULL,1,'','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',8,'estimated','2',1,'key','team','','moe','interactive','own/a','own','local','ok',1795978581620957,1795978582620957,10,4,0,5,NULL,80,40,40,'','row','',NULL,1,'','');
INSERT INTO "attempt" VALUES('b383a377979a7adb',9,'final','3',1,'key','team','','moe','interactive','own/a','own','local','retryable',1795978581620957,1795978582620957,NULL,NULL,NULL,NULL,NULL,0,0,0,'','row','',NULL,0,'','');
INSERT INTO "attempt" VALUES('correction-b383a377979a7adb-0',0,'correction','0',0,'capped','team','','moe','interactive','own/a','own','local','',1795978581620957,1795978582642344,NULL,NULL,NULL,NULL,NULL,NULL,-500,-500,'','row','',NULL,1,'','a discount');
CREATE TABLE budget (
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        each_session BIGINT NOT NULL,
        period TEXT NOT NULL,
        cap_nano_usd BIGINT,
        hard BIGINT NOT NULL,
        PRIMARY KEY (tenant, key_id, each_session, period)
    );
INSERT INTO "budget" VALUES('team','late',0,'day',5000000000,0);
INSERT INTO "budget" VALUES('gone','',0,'day',NULL,1);
CREATE TABLE gateway (
        name TEXT NOT NULL PRIMARY KEY,
        epoch TEXT NOT NULL,
        seen_unix_us BIGINT NOT NULL
    );
INSERT INTO "gateway" VALUES('gw-1','b383a377979a7adb',1795978583632936);
CREATE TABLE lease (
        lease_id TEXT NOT NULL PRIMARY KEY,
        gateway TEXT NOT NULL,
        epoch TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        accounts TEXT NOT NULL,
        state TEXT NOT NULL,
        granted_nano_usd BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        recovered_nano_usd BIGINT NOT NULL,
        opened_unix_us BIGINT NOT NULL,
        closed_unix_us BIGINT
    );
INSERT INTO "lease" VALUES('b383a377979a7adb-a19c43455253','gw-1','b383a377979a7adb','team','capped','','["month/1793491200/team/capped"]','open',14927343,6015,0,1795978582631107,NULL);
INSERT INTO "lease" VALUES('b383a377979a7adb-06a854d1c672','gw-1','b383a377979a7adb','team','agent','it''s a "session" – ü','["hour/1795975200/team/agent/s=it''s a \"session\" – ü"]','open',7464656,700,0,1795978582639030,NULL);
CREATE TABLE ledger (version BIGINT NOT NULL);
INSERT INTO "ledger" VALUES(1);
CREATE INDEX attempt_by_end ON attempt (ended_unix_us);
CREATE INDEX account_by_start ON account (starts_unix_s);
CREATE INDEX lease_by_state ON lease (state, gateway);
COMMIT;
