package rotate

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestUserlist_WithLine_OtherLinesStay(t *testing.T) {
	const other = "; \"app\" \"no line\"\n\"a\"\"b\" \"c\"\n\"last\" \"without end\""
	list := withLine(other, "app", `x"y`)
	require.Equal(t, other+"\n\"app\" \"x\"\"y\"\n", list)
	stored, err := lineOf(list, "app")
	require.NoError(t, err)
	require.Equal(t, `x"y`, stored)
	require.Equal(t, strings.Replace(list, `x""y`, "z", 1), withLine(list, "app", "z"))
	stored, err = lineOf(list, `a"b`)
	require.NoError(t, err)
	require.Equal(t, "c", stored)
}

func TestUserlist_NoLineOrTwo_Error(t *testing.T) {
	_, err := lineOf(`"app"`, "app")
	require.ErrorIs(t, err, errUnlisted)
	_, err = lineOf("\"app\" \"a\"\n\"app\" \"b\"\n", "app")
	require.ErrorContains(t, err, "several")
}

// A rotation that is undone early ends with a login that has no line yet.
func TestUserlist_LineOfAnUnlistedLogin_HasTheFormOfTheOther(t *testing.T) {
	logins := [2]string{blue, green}
	for form, stored := range map[string]string{firstWord: "the password", "SCRAM-SHA-256$x": "SCRAM-SHA-256$y"} {
		list, err := withPassword(formatLine(blue, form), logins, green, green, "the password", "SCRAM-SHA-256$y")
		require.NoError(t, err)
		require.Equal(t, formatLine(blue, form)+formatLine(green, stored), list)
		again, err := withPassword(list, logins, green, green, "the password", "SCRAM-SHA-256$y")
		require.NoError(t, err)
		require.Equal(t, list, again)
	}
	_, err := withPassword(formatLine("admin", firstWord), logins, green, green, "the password", "SCRAM-SHA-256$y")
	require.ErrorIs(t, err, errUnlisted)
}

func TestRecord_Text_CanBeParsed(t *testing.T) {
	now := time.Now().UTC()
	for _, r := range []Record{
		{From: blue, To: green, Step: Opening},
		{From: green, To: blue, Step: Quiet, Back: true, Since: now.Add(-time.Hour), Looked: now},
	} {
		parsed, err := ParseRecord(r.Text(), [2]string{blue, green}, now)
		require.NoError(t, err)
		require.Equal(t, r, parsed)
	}
	r, err := ParseRecord("", [2]string{blue, green}, now)
	require.NoError(t, err)
	require.Zero(t, r)
}

// One userlist has the application's logins and quiesce's own.
func TestRecord_OfOtherLogins_MattersUntilItEnds(t *testing.T) {
	others := [2]string{"quiesce_blue", "quiesce_green"}
	r, err := ParseRecord(Record{From: blue, To: green, Step: Closed}.Text(), others, time.Now())
	require.NoError(t, err)
	require.Zero(t, r)
	_, err = ParseRecord(Record{From: blue, To: green, Step: Ending}.Text(), others, time.Now())
	require.ErrorContains(t, err, "a rotation of other logins is under way: end it with --logins app_blue,app_green")
}

func TestRecord_Nonsense_Refused(t *testing.T) {
	for _, text := range []string{
		"x", "{}", `{"from":"app_blue","to":"app_blue","step":"moving"}`, `{"from":"app_blue","to":"root","step":"moving"}`,
		`{"from":"app_blue","to":"app_green","step":"now"}`, `{"from":"app_blue","to":"app_green","step":"quiet"}`,
		`{"from":"app_blue","to":"app_green","step":"quiet","since":"2999-01-01T00:00:00Z","looked":"2999-01-01T00:00:00Z"}`,
		`{"from":"app_blue","to":"app_green","step":"quiet","since":"2001-01-01T00:00:00Z","looked":"2000-01-01T00:00:00Z"}`,
		`{"from":"app_blue","to":"app_green","step":"moving","more":1}`, strings.Repeat(" ", maxRecord+1),
		`{"from":"app_blue","to":"app_green","step":"moving"}{}`,
	} {
		_, err := ParseRecord(text, [2]string{blue, green}, time.Now())
		require.ErrorContains(t, err, Annotation, text)
	}
}

func TestPassword_Generated_IsAccepted(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		password := generate()
		require.NoError(t, CheckPassword(password))
		require.Len(t, password, generatedLength)
		require.False(t, seen[password])
		seen[password] = true
	}
}

func TestPassword_Unfit_ErrorDoesNotShowIt(t *testing.T) {
	for _, password := range []string{"short", strings.Repeat("x", 100), "has a space inside", "has\x00other bytes in it", "ünterschiedlich lang", "md5" + strings.Repeat("0", 32)} {
		err := CheckPassword(password)
		require.Error(t, err)
		require.NotContains(t, err.Error(), password)
	}
}

// A primary and its standby number their processes alike.
func TestAmong_SeveralServersHaveTheID_LeftAlone(t *testing.T) {
	processes := []Process{{Server: 0, ID: 7}, {Server: 0, ID: 8}, {Server: 1, ID: 7}, {Server: 1, ID: 9}, {Server: 1, ID: 10}}
	require.Equal(t, []Process{{Server: 0, ID: 8}, {Server: 1, ID: 9}}, among(processes, []int{7, 8, 9}))
}
