package pgbouncer

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"
)

// The settings that this package writes (https://www.pgbouncer.org/config.html). It writes no others: a login that may
// change these may also turn authentication off.
const (
	QueryWaitTimeout  = "query_wait_timeout"  // seconds that a client waits for its transaction to begin; 0: for ever
	ClientIdleTimeout = "client_idle_timeout" // seconds after which an idle client is disconnected; 0: never
	ServerLoginRetry  = "server_login_retry"  // seconds for which clients wait after a connection to the database has failed
	ServerFastClose   = "server_fast_close"   // whether a session ends with its transaction: 0 or 1
)

// QueryTimeout is read only: seconds that a query may take, the wait for a connection included, until pgbouncer disconnects its client
// (src/janitor.c, pool_client_maint); 0: no limit.
const QueryTimeout = "query_timeout"

// maxTimeout is more than anyone configures, 30 years in seconds. pgbouncer counts microseconds in 64 bits.
const maxTimeout = 1e9

// writable maps each of these settings to its highest value. The lowest is 0.
var writable = map[string]float64{QueryWaitTimeout: maxTimeout, ClientIdleTimeout: maxTimeout, ServerLoginRetry: maxTimeout, ServerFastClose: 1}

// settingNumber is how pgbouncer prints a number: 120, 120.0, 0.5 or 1e+06.
var settingNumber = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\d{1,12}(\.\d{1,9})?(e\+\d{1,2})?$`)
})

// CheckSetting returns an error unless the setting is one that this package writes, and the value a number in its range. Values come
// from records and from consoles, and neither is to be believed.
func CheckSetting(name, value string) error {
	most, known := writable[name]
	if !known {
		return fmt.Errorf("setting %s is not one that quiesce writes", printable(name))
	}
	_, err := settingValue(name, value, most)
	return err
}

func settingValue(name, value string, most float64) (float64, error) {
	number, err := strconv.ParseFloat(value, 64)
	if err != nil || !settingNumber().MatchString(value) || number > most {
		return 0, fmt.Errorf("setting %s: %s is not a number from 0 to %.0f", name, printable(value), most)
	}
	return number, nil
}
