// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestFeatures(t *testing.T) {
	netlab.Require(t)
	for _, f := range Features() {
		if f.Needed && f.Missing != nil {
			t.Errorf("%s, for %s: %v", f.Name, f.Why, f.Missing)
		}
		if f.Name == "" || f.Why == "" {
			t.Errorf("%+v says too little", f)
		}
	}
}
