package escort

import (
	"crypto/sha256"
	"encoding/hex"
)

// groupHashLength is the length of the hash in a group's name, in hex digits: 128 bits, so that no two names are equal.
const groupHashLength = 32

// GroupLease returns the name of the Lease with which pods of one owner take turns: quiesce-pooler-<namespace>-<hash> for the kind
// pooler. The author of a pod chooses the owner's UID, and the API server accepts any text for it. So the UID is hashed, together with
// the namespace: the name is always valid, is never an instance's, and is never that of a group in another namespace. The namespace is
// in the name for people, if it is one.
func GroupLease(kind, namespace, owner string) string {
	hash := sha256.Sum256([]byte(namespace + "/" + owner)) // a namespace has no slash
	name := "quiesce-" + kind + "-"
	if isNamespace(namespace) {
		name += namespace + "-"
	}
	return name + hex.EncodeToString(hash[:])[:groupHashLength]
}
