// Package rotate replaces the password of a login that is in use, without a failed connection. Two logins alternate: one works, one
// rests. To rotate, the resting one is enabled, its clients move to it, and the other is closed when it has been unused for long.
//
// The steps are those of a Rotation. Each can be repeated, so a run that was killed is continued by the next one. What must outlive a
// run is the Record; all else is found by looking.
package rotate
